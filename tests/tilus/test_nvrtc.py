"""The compiler says what it made, whoever compiled the same before."""

from cuda.bindings import nvrtc as bindings

from tilus.runtime import nvrtc

TEXT = 'extern "C" __global__ void nothing(int* a) { *a = 1; }'


def test_the_resources_are_told_each_time() -> None:
    first, second = (nvrtc.compile_cubin(TEXT, "nothing", "sm_90", 0) for _ in range(2))
    assert first.cubin == second.cubin
    assert first.resources == second.resources
    assert not first.resources.serialized


def test_nothing_is_taken_from_the_compilers_own_cache(monkeypatch) -> None:
    """It has one where there is a driver, and does not say what it takes from there."""
    asked: list[bytes] = []
    real = bindings.nvrtcCompileProgram

    def compile_program(made, count, options):
        asked.extend(options)
        return real(made, count, options)

    monkeypatch.setattr(bindings, "nvrtcCompileProgram", compile_program)
    nvrtc.compile_cubin(TEXT, "nothing", "sm_90", 0)
    assert b"--no-cache" in asked
