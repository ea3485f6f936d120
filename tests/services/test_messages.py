import pytest
from pydantic import ValidationError

from services.messages import Cell, KernelSpec, RunRequest, Workload

WORKLOAD = Workload(b_dtype="uint4", group_size=128, zeros=True, m=1, n=8192, k=8192)


def test_equal_messages_have_one_key_whatever_the_order_of_their_names():
    one = KernelSpec(executor="tilus", kernel="f", parameters={"a": 1, "b": True}, arch="sm_90")
    two = KernelSpec(arch="sm_90", parameters={"b": True, "a": 1}, kernel="f", executor="tilus")
    assert one.key() == two.key() and len(one.key()) == 64


@pytest.mark.parametrize(
    "change", [{"m": 16}, {"b_dtype": "int4"}, {"zeros": False}, {"group_size": -1}]
)
def test_every_field_is_part_of_the_key(change):
    assert WORKLOAD.model_copy(update=change).key() != WORKLOAD.key()


def test_booleans_and_numbers_are_different_parameters():
    def spec(value):
        return KernelSpec(executor="e", kernel="f", parameters={"zeros": value}, arch="sm_90")

    assert spec(True).key() != spec(1).key() and spec(True).parameters["zeros"] is True


def test_a_message_survives_the_wire():
    cell = Cell(figure=9, executor="tilus", workload=WORKLOAD)
    assert Cell.model_validate_json(cell.model_dump_json()) == cell


@pytest.mark.parametrize(
    "given",
    [
        {"figure": 9, "mode": "recorded", "colour": "red"},
        {"figure": 9, "mode": "guessed"},
        {"figure": 9, "mode": "recorded", "arch": "sm_90; rm"},
        {"figure": 9, "mode": "measured", "gpu": "../x"},
        {"figure": "nine", "mode": "recorded"},
    ],
)
def test_unknown_or_ill_formed_fields_are_refused(given):
    with pytest.raises(ValidationError):
        RunRequest.model_validate(given)
