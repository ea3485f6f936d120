"""The executors there are, by name; each is one module."""

from services.executors import humming, ladder, public_tilus, tilus, torch_f16, triton
from services.executors.base import Executor

EXECUTORS: dict[str, Executor] = {
    executor.name: executor
    for executor in (torch_f16, triton, humming, public_tilus, ladder, tilus)
}
