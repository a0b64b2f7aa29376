"""Shell completion: set up by one option, for commands, options and names of what is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from topwork.cli.app import main


def completed(line: str, monkeypatch, capsys) -> list[str]:
    words = line.split(" ")
    monkeypatch.setenv("_TOPWORK_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    assert main([]) == 0
    return capsys.readouterr().out.split()


CASES = {
    "topwork val": {"validate"},
    "topwork run --save": {"--save-outside"},
    "topwork run quick": {"quickstart"},
    "topwork validate quick": {"quickstart"},
    "topwork cat quick": {"quickstart"},
    "topwork new text-": {"text-classification", "text-generation"},
    "topwork list sta": {"stages"},
    "topwork list stages evalu": {"evaluate"},
    "topwork list tasks summ": {"summarization"},
    "topwork plugins check repo": {"report"},
}


@pytest.mark.parametrize("line", CASES)
def test_a_shell_completes(line, monkeypatch, capsys) -> None:
    assert set(completed(line, monkeypatch, capsys)) == CASES[line]


def test_completion_is_installed_by_an_option(monkeypatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    assert main(["--install-completion", "bash"]) == 0
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert any("_TOPWORK_COMPLETE" in file.read_text() for file in files)
    assert main(["--show-completion", "zsh"]) == 0
    assert "_TOPWORK_COMPLETE" in capsys.readouterr().out
