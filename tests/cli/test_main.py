import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import xcrossrec
from xcrossrec import cli
from xcrossrec.cli import app
from xcrossrec.cli.console import prepare
from xcrossrec.exceptions import ConfigError, DataError
from xcrossrec.replacing import check_folder

RUNNER = CliRunner()


def test_version_and_help() -> None:
    result = RUNNER.invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"xcrossrec {xcrossrec.__version__}\n")
    assert "data" in RUNNER.invoke(app, ["--help"]).stdout
    assert "import" in RUNNER.invoke(app, ["data", "--help"]).stdout


@pytest.mark.parametrize(("process", "status"), [("1", 128 + signal.SIGTERM), ("os.getpid()", -signal.SIGTERM)])
def test_a_containers_first_process_ends_at_once_too_while_it_starts(process: str, status: int) -> None:
    """The system lets no signal end that one which it does not handle itself."""
    busy = "lambda: (print('busy', flush=True), time.sleep(60))"
    code = (
        f"import os, time; from xcrossrec import cli; number = {process}; os.getpid = lambda: number; cli.app = {busy}"
    )
    with subprocess.Popen([sys.executable, "-c", f"{code}; cli.main()"], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "busy\n"
        running.terminate()
        assert running.wait(30) == status


@pytest.mark.parametrize("arguments", [["nonsense"], ["data", "import", "--nonsense"], ["data", "import"]])
def test_usage_mistakes_exit_2(arguments: list[str]) -> None:
    result = RUNNER.invoke(app, arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr
    assert result.stdout == ""


def failing(error: BaseException) -> typer.Typer:
    failing_app = typer.Typer(cls=cli._Commands, pretty_exceptions_enable=False)

    @failing_app.command()
    def fail() -> None:
        raise error

    @failing_app.command()
    def other() -> None:
        pass

    return failing_app


@pytest.mark.parametrize("error", [DataError("got 1,\nexpected 2"), OSError("got 1, expected 2")])
def test_expected_failures_are_one_sentence_and_exit_2(error: Exception) -> None:
    result = RUNNER.invoke(failing(error), ["fail"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: got 1, expected 2\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), "x: File name too long: choose a shorter"),
        (PermissionError(errno.EACCES, "Permission denied", "/a"), "/a: Permission denied: ask for access to it"),
        (
            OSError(errno.EROFS, "Read-only file system", "/a"),
            "/a: Read-only file system: choose a place that may be written",
        ),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/a"), "/a: Is a directory: check that it is what you"),
        (OSError("no more threads"), "no more threads"),
        (OSError(errno.ENOSPC, "No space left on device"), "what is written or printed: No space left on device: free"),
        (OSError(errno.EMFILE, "Too many open files", "/a"), "/a: Too many open files: allow the process more open"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), "the working directory is gone: change into"),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp', '/']"),
            "no folder for temporary files may be written: let TMPDIR name one that may",
        ),
        (MemoryError(), "memory is used up: allow the process more, or free some (MemoryError)"),
        (RuntimeError("can't start new thread"), "memory is used up"),
    ],
)
def test_what_the_system_refuses_is_said_with_a_remedy(error: Exception, said: str) -> None:
    result = RUNNER.invoke(failing(error), ["fail"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert said in result.stderr
    assert "Errno" not in result.stderr
    assert len(result.stderr) < 200


def test_the_cause_counts_and_no_lock_that_another_process_has() -> None:
    wrapped = DataError("cannot be loaded: copy it again")
    wrapped.__cause__ = OSError(errno.EMFILE, "Too many open files", "/a")
    assert "too many files are open" in RUNNER.invoke(failing(wrapped), ["fail"]).stderr
    wrapped.__cause__ = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    assert RUNNER.invoke(failing(wrapped), ["fail"]).stderr == "error: cannot be loaded: copy it again\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk is /dev/full, as Linux has it")
def test_what_cannot_be_printed_to_stderr_ends_no_work() -> None:
    say = "from xcrossrec.progress import to_stderr, showing, stage; to_stderr('x'); print('went on')"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", say], stdout=subprocess.PIPE, stderr=full, text=True, check=False)
    assert done.stdout == "went on\n"
    closed = subprocess.run(f'exec "{sys.executable}" -c "{say}" 2>&-', shell=True, stdout=subprocess.PIPE, text=True)
    assert (closed.stdout, closed.returncode) == ("went on\n", 0)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_a_terminal_without_utf_8_gets_all_that_it_can_show(encoding: str) -> None:
    code = "from xcrossrec import cli; cli.app.command('say')(lambda: cli.typer.echo('G\u00e4rten \u2116')); cli.main()"
    told = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code, "say"], env=told, capture_output=True, check=True)
    assert done.stdout in ("G\u00e4rten \u2116\n".encode(), b"G\xe4rten \\u2116\n")


def test_too_little_address_space_is_told_before_anything_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda of: (10**9, 10**9))
    assert "may have 1,000 MB of address space" in RUNNER.invoke(app, ["data", "lint", "x"]).stderr
    monkeypatch.setattr(resource, "getrlimit", lambda of: (2 * 10**9, 2 * 10**9))
    with pytest.raises(ConfigError, match="the libraries that it needs reserve 3,500"):
        prepare("models")


def test_a_word_that_is_not_utf_8_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["xcrossrec", "data", "lint", "caf\udce9"])
    done = RUNNER.invoke(app, ["data", "lint", "x"])
    assert (done.exit_code, done.stderr) == (
        2,
        "error: 'caf\\udce9' is not UTF-8, or this locale is not: rename it, or set PYTHONUTF8=1\n",
    )
    with pytest.raises(DataError, match="is not UTF-8, or this locale is not: rename it"):
        check_folder(tmp_path / "caf\udce9")


def test_interruption_exits_130() -> None:
    assert RUNNER.invoke(failing(KeyboardInterrupt()), ["fail"]).exit_code == 130


def test_bugs_are_not_hidden() -> None:
    assert isinstance(RUNNER.invoke(failing(RuntimeError("bug")), ["fail"]).exception, RuntimeError)


def test_the_command_imports_nothing_heavy_and_fails_without_a_traceback() -> None:
    code = (
        "import sys; from xcrossrec.cli import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'transformers', 'polars', 'sklearn'} & set(sys.modules)"
    )
    run = [sys.executable, "-c", code, "data", "--help"]
    assert subprocess.run(run, capture_output=True, check=False).returncode == 0
    run = [
        sys.executable,
        "-c",
        "from xcrossrec.cli import main; main()",
        "evaluate",
        "baseline:popularity",
        "/nowhere/at/all",
    ]
    failed = subprocess.run(run, capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith("error: no domain folder at /nowhere/at/all")
    assert len(failed.stderr.splitlines()) == 1
