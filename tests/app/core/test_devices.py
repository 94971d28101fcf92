import pytest
from pydantic import SecretStr, ValidationError

from app.core.devices import DeviceList, visible_devices
from app.core.settings import Settings


@pytest.mark.parametrize(
    ("text", "names", "total"),
    [
        ("", (), 1),
        ("4", ("0", "1", "2", "3"), 4),
        ("0,2", ("0", "2"), 2),
        ("2,", ("2",), 1),
        ("0", ("0",), 1),
        (" 1 , 3 ", ("1", "3"), 2),
        ("0,0,1", ("0", "0", "1"), 2),
        ("GPU-8f1c,GPU-77aa", ("GPU-8f1c", "GPU-77aa"), 2),
        ("cpu:2", ("cpu-0", "cpu-1"), 2),
    ],
)
def test_devices_are_a_count_a_list_or_places(text: str, names: tuple[str, ...], total: int) -> None:
    assert (DeviceList.parse(text).names, DeviceList.parse(text).total) == (names, total)


@pytest.mark.parametrize("text", ["-1", "cpu:0", "0;1", "a/b", ",", "../x,1"])
def test_what_is_no_list_of_devices_is_refused_when_settings_are_read(text: str) -> None:
    with pytest.raises(ValidationError, match="devices are a count"):
        Settings(worker_devices=text, api_key_pepper=SecretStr("x"))


def test_a_job_may_ask_for_as_many_devices_as_are_named_or_allowed() -> None:
    assert Settings().most_gpus == 1
    assert Settings(worker_devices="0,1,2").most_gpus == 3
    assert Settings(worker_devices="0,1,2", max_gpus_per_job=2).most_gpus == 2


def test_a_trainer_sees_its_devices_only() -> None:
    assert visible_devices(("1", "3")) == {"CUDA_VISIBLE_DEVICES": "1,3"}
    assert visible_devices(("cpu-0", "cpu-1")) == {"CUDA_VISIBLE_DEVICES": ""}
    assert visible_devices(()) == {}
