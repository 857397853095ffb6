"""`minilm-np info` and `minilm-np fetch`."""

from __future__ import annotations

from pathlib import Path

from support.commands import run


def test_info_prints_files_configuration_and_op_set(weights_folder: Path) -> None:
    out = run("info").stdout.decode()
    assert str(weights_folder) in out
    assert "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  model.safetensors\n" in out
    for fact in ("22,565,376", "num_hidden_layers 6", "max_seq_length 256", "op set", "threads", "cache"):
        assert fact in out


def test_fetch_prints_the_folder_if_the_files_are_there(weights_folder: Path) -> None:
    result = run("fetch", "--to", str(weights_folder))
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.decode().strip() == str(weights_folder)
