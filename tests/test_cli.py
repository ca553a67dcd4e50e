"""The command line as a user meets it: a process of its own, real files, exit codes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from qwen3_rag.cli import app
from qwen3_rag.index.gpu import search_device

ARTICLES = {
    "tides.md": "# Tides\n\nThe moon pulls the sea, twice a day the water rises.",
    "bread.txt": "Yeast makes bread rise.",
    "beir.jsonl": '{"_id": "q1", "title": "Merge", "text": "Merge intervals.", "metadata": {"lang": "en"}}\n',
}


def run(
    *arguments: object, code: int = 0, stdin: str = "", cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from qwen3_rag.cli import main; main()", *map(str, arguments)]
    variables = os.environ | {"COLUMNS": "100"} | environment
    done = subprocess.run(command, capture_output=True, text=True, env=variables, input=stdin, cwd=cwd)
    assert done.returncode == code, done.stderr + done.stdout
    return done


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_embedder: Path, tiny_reranker: Path) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    for name, text in ARTICLES.items():
        (folder / name).write_text(text)
    arguments = ("--embedder", tiny_embedder, "--reranker", tiny_reranker)
    done = run("index", folder, "--store", folder / "store", *arguments)
    assert "3 documents written in 3 passages (3 embedded), 0 unchanged" in done.stdout
    return folder / "store"


def test_index_again_finds_nothing_new(store: Path) -> None:
    assert "0 documents written" in run("index", store.parent, "--store", store).stdout
    done = run("index", store.parent, "--store", store, "--reranker", "demo", code=2)
    assert "exists and remembers its own" in done.stderr


def test_search_prints_a_table_or_json_lines(store: Path) -> None:
    table = run("search", store, "moon and sea", "-k", 2).stdout
    assert "score" in table
    assert "rerank" in table
    lines = run("search", store, "moon", "--json", "--filter", '{"lang": "en"}').stdout.splitlines()
    (hit,) = map(json.loads, lines)
    assert (hit["document_id"], hit["rank"], hit["reranked"]) == ("q1", 1, True)
    lines = run("search", store, "moon", "--json", "--no-rerank", "--mode", "lexical").stdout.splitlines()
    assert json.loads(lines[0])["title"] == "Tides"
    assert "no hits" in run("search", store, "moon", "--filter", '{"lang": "xx"}').stdout


def test_explain_shows_both_stages(store: Path) -> None:
    shown = run("search", store, "moon", "--explain", "--mode", "hybrid", "-k", 2).stdout
    assert shown.count("first stage: rank") == 2
    assert "fused" in shown
    assert "log-odds" in shown
    assert "characters 0 to " in shown
    assert "embed " in shown
    assert "\x1b[" not in shown, "no colours where there is no terminal"
    lines = run("search", store, "moon", "--explain", "--json", "--no-rerank", "--group").stdout.splitlines()
    assert {"embed", "retrieve", "rerank", "total"} == set(json.loads(lines[0])["timings"])


def test_get_prints_documents_and_says_what_is_not_there(store: Path) -> None:
    assert run("get", store, "q1").stdout == "Merge intervals.\n"
    done = run("get", store, "q1", "nobody", "--json", code=1)
    assert json.loads(done.stdout)["title"] == "Merge"
    assert "there is no document 'nobody'" in done.stderr


def test_get_prints_lines_and_list_shows_documents_in_order(tmp_path: Path, tiny_embedder: Path) -> None:
    lines = [f"line {number}" for number in range(1, 9)]
    (folder := tmp_path / "docs").mkdir()
    (folder / "a.txt").write_text("\n".join(lines))
    (folder / "b:2.txt").write_text("Other text.")
    run("index", folder, "--store", tmp_path / "s", "--embedder", tiny_embedder, "--reranker", "none")
    a, b = folder / "a.txt", folder / "b:2.txt"
    assert run("get", tmp_path / "s", f"{a}:3:2").stdout == "line 3\nline 4\n\n"
    assert run("get", tmp_path / "s", f"{a}:8", b).stdout == "line 8\nOther text.\n"
    assert (
        "page is 1; expected None, because the document has no pages"
        in run("get", tmp_path / "s", a, "--page", "1", code=2).stderr
    )
    assert run("list", tmp_path / "s").stdout == f"{a}  a  (1 passage)\n{b}  b:2  (1 passage)\n"
    entry = json.loads(run("list", tmp_path / "s", folder / "b", "--limit", "5", "--json").stdout)
    assert entry == {"id": str(b), "title": "b:2", "source": str(b), "passages": 1}
    assert run("list", tmp_path / "s", "elsewhere").stdout == ""


def test_sync_keeps_a_store_in_step(tmp_path: Path, tiny_embedder: Path) -> None:
    (folder := tmp_path / "docs").mkdir()
    for name, text in ARTICLES.items():
        (folder / name).write_text(text)
    (folder / "film.srt").write_text("Hello there.")
    (folder / "bad.txt").write_bytes(b"text\x00\x01")
    (folder / "readers.py").write_text(
        "from qwen3_rag import Document\n"
        "from qwen3_rag.ingest.readers import reader\n\n"
        "@reader('.srt')\n"
        "def subtitles(file):\n    yield Document('said: ' + file.text, title=file.stem)\n"
    )
    options = ("--store", tmp_path / "s", "--embedder", tiny_embedder, "--reranker", "none", "--exclude", "*.py")
    first = run("sync", folder, *options, "--reader", folder / "readers.py")
    assert "4 documents written" in first.stdout
    assert "1 files or folders skipped" in first.stdout
    assert "bad.txt: .txt by its name, but" in first.stderr
    assert run("get", tmp_path / "s", folder / "film.srt").stdout == "said: Hello there.\n"
    (folder / "bread.txt").unlink()
    options = ("--store", tmp_path / "s", "--exclude", "*.py", "--exclude", "bad.txt")
    planned = run("sync", folder, *options, "--dry-run").stdout
    assert f"removed  {folder / 'bread.txt'}" in planned
    assert "0 files to read, 3 unchanged; nothing was done" in planned
    report = json.loads(run("sync", folder, *options, "--json").stdout)
    assert (report["removed"], report["files_unchanged"]) == (1, 3)
    assert "1 of 1 documents deleted" in run("delete", tmp_path / "s", "-", stdin="q1\n").stdout
    assert "bad.txt" in run("sync", folder, "--store", tmp_path / "s", "--strict", code=1).stderr
    assert "expected one of them" in run("sync", folder, *options, "--dry-run", "--watch", code=2).stderr


def test_settings_come_from_flags_then_the_environment_then_a_file(store: Path, tmp_path: Path) -> None:
    (tmp_path / "qwen3-rag.toml").write_text('top-k = 2\n[search]\nmode = "lexical"\nrerank = false\n')
    count = lambda *more, **variables: len(  # noqa: E731
        run("search", store, "moon bread merge", "--json", *more, cwd=tmp_path, **variables).stdout.splitlines()
    )
    assert count() == 2
    assert count(QWEN3_RAG_SEARCH_TOP_K="1") == 1
    assert count("-k", 3, QWEN3_RAG_SEARCH_TOP_K="1") == 3
    lines = run("config", "--json", cwd=tmp_path, QWEN3_RAG_SEARCH_TOP_K="1").stdout.splitlines()
    values = {(row["command"], row["option"]): (row["value"], row["from"]) for row in map(json.loads, lines)}
    assert values["search", "top_k"] == (1, "QWEN3_RAG_SEARCH_TOP_K")
    assert values["search", "mode"] == ("lexical", str(tmp_path / "qwen3-rag.toml"))
    assert values["search", "blend"] == (0.0, "default")
    assert "QWEN3_RAG_SEARCH_TOP_K" in run("config", cwd=tmp_path, QWEN3_RAG_SEARCH_TOP_K="1").stdout
    for said, message in (
        ("[serch]", "no command 'serch' (nearest: 'search')"),
        ("x = 1", "'x' is an option of no command"),
        ("=", "TOML"),
    ):
        (tmp_path / "bad.toml").write_text(said)
        assert message in run("--config", tmp_path / "bad.toml", "config", code=2).stderr
    (tmp_path / "bad.toml").write_text("[search]\ntopk = 1")
    assert "has no option 'topk' (nearest: 'top_k')" in run("--config", tmp_path / "bad.toml", "config", code=2).stderr
    done = run("config", code=2, QWEN3_RAG_SEARCH_TOPK="1")
    assert "variable QWEN3_RAG_SEARCH_TOPK is no option (nearest: 'QWEN3_RAG_SEARCH_TOP_K')" in done.stderr


def test_a_file_of_settings_is_found_in_a_folder_above_and_its_paths_count_from_there(
    tmp_path: Path, tiny_embedder: Path
) -> None:
    (tmp_path / "qwen3-rag.toml").write_text(
        f'[sync]\nstore = "kept/store"\nembedder = "{tiny_embedder}"\nreranker = "none"\n'
    )
    (below := tmp_path / "docs" / "deep").mkdir(parents=True)
    (below / "a.txt").write_text("A text.")
    assert "1 documents written" in run("sync", ".", cwd=below).stdout
    assert (tmp_path / "kept" / "store").is_dir()
    (below / "qwen3-rag.toml").write_text("")
    assert "Missing option '--store'" in run("sync", ".", cwd=below, code=2).stderr


@pytest.fixture
def synced(tmp_path: Path, tiny_embedder: Path) -> tuple[Path, Path]:
    (folder := tmp_path / "docs").mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"Text number {number}.")
    run("sync", folder, "--store", tmp_path / "store", "--embedder", tiny_embedder, "--reranker", "none")
    return folder, tmp_path / "store"


def test_a_sync_that_would_remove_most_removes_nothing_unless_it_is_forced(synced: tuple[Path, Path]) -> None:
    folder, store = synced
    for number in range(2):
        (folder / f"{number}.txt").unlink()
    done = run("sync", folder, "--store", store, code=3)
    assert "2 files gone whose documents stay" in done.stdout
    assert "2 of 3 files read from it are gone" in done.stderr
    assert json.loads(run("sync", folder, "--store", store, "--dry-run", "--json").stdout)["withheld"] == 2
    assert "2 removed" in run("sync", folder, "--store", store, "--force").stdout


@pytest.mark.skipif(os.name != "posix", reason="a terminal as POSIX has it")
@pytest.mark.parametrize(("answer", "code", "left"), [("y", 0, 1), ("n", 3, 3)])
def test_at_a_terminal_it_asks_first(synced: tuple[Path, Path], answer: str, code: int, left: int) -> None:
    folder, store = synced
    for number in range(2):
        (folder / f"{number}.txt").unlink()
    master, terminal = os.openpty()
    command = [sys.executable, "-c", "from qwen3_rag.cli import main; main()", "sync", folder, "--store", store]
    process = subprocess.Popen(command, stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    os.write(master, f"{answer}\n".encode())
    _, said = process.communicate(timeout=120)
    os.close(master)
    os.close(terminal)
    assert "2 files are gone. Remove their documents?" in said
    assert (process.returncode, f"documents: {left}" in run("info", store).stdout) == (code, True)


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_sigterm_ends_watching_cleanly(synced: tuple[Path, Path]) -> None:
    folder, store = synced
    command = [
        sys.executable,
        "-c",
        "from qwen3_rag.cli import main; main()",
        "sync",
        folder,
        "--store",
        store,
        "--watch",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "3 unchanged" in process.stdout.readline()
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in said) == (0, False)
    assert "everything is as it was written" in run("verify", store).stdout


def test_status_and_describe_show_what_is_known_of_files(synced: tuple[Path, Path]) -> None:
    folder, store = synced
    (folder / "bad.txt").write_bytes(b"text\x00")
    run("sync", folder, "--store", store)
    shown = run("status", store).stdout
    assert "3 documents in 3 passages, from 4 files" in shown
    assert f"unreadable {folder / 'bad.txt'}: .txt by its name" in shown
    assert list(json.loads(run("status", store, "--json").stdout)["unreadable"]) == [str(folder / "bad.txt")]
    run("describe", store, "docs", "numbered texts", cwd=folder.parent)
    assert run("describe", store).stdout == f"{folder}  numbered texts\n"
    assert "numbered texts" in run("search", store, "text", "--no-rerank").stdout
    (hit, *_) = map(json.loads, run("search", store, "text", "--no-rerank", "--json").stdout.splitlines())
    assert hit["context"] == ["numbered texts"]
    run("describe", store, folder, "--remove")
    assert run("describe", store).stdout == ""
    assert "expected both" in run("describe", store, folder, code=2).stderr


def test_a_pipe_that_closes_early_is_no_error(store: Path) -> None:
    command = f"{sys.executable} -c 'from qwen3_rag.cli import main; main()' get {store} q1 q1 q1 | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "get {store} " + "large " * 40,
        "get {store} --json " + "large " * 40,
        "search {store} moon --json --no-rerank",
        "-q search {store} moon --no-rerank",
        "info {store}",
        "config",
        "--help",
    ],
)
def test_head_in_a_pipe_prints_nothing_on_stderr(store: Path, tmp_path: Path, command: str) -> None:
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    if "large" in command:
        (tmp_path / "large.jsonl").write_text(json.dumps({"_id": "large", "text": "a line of text\n" * 40_000}))
        run("index", tmp_path / "large.jsonl", "--store", copy)
    python = f"{sys.executable} -c 'from qwen3_rag.cli import main; main()'"
    # The reader is gone before the first line is written, or after it has read that.
    for reader in ("true", "head -1"):
        piped = f"{python} {command.replace('{store}', str(copy))} | {reader} > {tmp_path / 'out'}"
        done = subprocess.run(["bash", "-o", "pipefail", "-c", piped], capture_output=True, text=True)
        said = [line for line in done.stderr.splitlines() if not line.startswith("INFO ")]
        assert (said, done.returncode in (0, 1)) == ([], True)


def test_home_folders_are_expanded_on_the_command_line(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "store")
    (tmp_path / "a.txt").write_text("A text at home.")
    home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    done = run("index", "~/a.txt", "--store", "~/store", **home)
    assert "1 documents written" in done.stdout
    assert "documents: 4" in run("info", "~/store", **home).stdout
    (tmp_path / "own.toml").write_text("[search]\ntop-k = 3\n")
    assert "own.toml" in run("--config", "~/own.toml", "config", **home).stdout
    (tmp_path / "questions.txt").write_text("moon\n")
    assert "passages" in run("optimize", "~/store", "--queries", "~/questions.txt", **home).stdout
    (tmp_path / "reader.py").write_text("print('reader was run')")
    assert "reader was run" in run("sync", "~/a.txt", "--store", "~/store", "--reader", "~/reader.py", **home).stdout


def test_shells_complete_commands_and_options() -> None:
    script = Path(sys.executable).parent / "qwen3-rag"

    def completed(words: str, at: int) -> list[str]:
        variables = {"_QWEN3_RAG_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(at)}
        done = subprocess.run([script], capture_output=True, text=True, env=os.environ | variables)
        return done.stdout.split()

    assert completed("qwen3-rag sea", 1) == ["search"]
    assert completed("qwen3-rag sync --dr", 2) == ["--dry-run"]


def test_info_shows_what_is_there(store: Path) -> None:
    shown = json.loads(run("info", store, "--json").stdout)
    assert (shown["documents"], shown["dimensions"], shown["index"]["device"]) == (3, 64, search_device())
    assert "documents: 3" in run("info", store).stdout


def test_delete_optimize_and_verify(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    assert "3 documents: everything is as it was written" in run("verify", copy).stdout
    assert "1 of 2 documents deleted" in run("delete", copy, "q1", "nobody").stdout
    (questions := tmp_path / "questions.txt").write_text("moon\n\nbread\n")
    done = run("optimize", copy, "--index", "flat", "--queries", questions)
    assert "2 passages" in done.stdout
    assert "exact" in done.stdout
    assert json.loads(run("info", copy, "--json").stdout)["index"]["removed"] == 0
    raw = bytearray((copy / "vectors-2.bin").read_bytes())
    raw[3] ^= 1
    (copy / "vectors-2.bin").write_bytes(raw)
    done = run("verify", copy, code=1)
    assert "rows 0 to 31 do not match their checksum" in done.stdout
    assert "1 faults" in done.stdout
    (questions := tmp_path / "none.txt").write_text("\n")
    assert "holds no questions" in run("optimize", copy, "--queries", questions, code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("search", "{store}", ""), 2, "error: query is ''"),
        (("search", "{store}", "q", "--filter", "lang=en"), 2, "--filter is 'lang=en', which is not JSON"),
        (("search", "{store}", "q", "--filter", "[1]"), 2, "expected an object"),
        (("search", "{store}", "q", "--mode", "sparse"), 2, "unknown mode 'sparse'"),
        (("search", "{store}", "q", "--instruction", "xyz"), 2, "unknown instruction 'xyz'"),
        (("search", "nowhere", "q"), 1, "nowhere is not a store"),
        (("info", "nowhere"), 1, "nowhere is not a store"),
        (("optimize", "{store}", "--index", "annoy"), 2, "unknown index 'annoy'; expected one of: auto, flat, ivf"),
        (("optimize", "{store}", "--recall", "7"), 2, "recall is 7"),
        (("delete", "nowhere", "q1"), 1, "nowhere is not a store"),
        (("index", "nowhere", "--store", "{store}"), 1, "nowhere: no such file"),
        (("index", "{store}/..", "--store", "new-store", "--embedder", "gpt"), 2, "unknown embedder 'gpt'"),
        (("verify-model", "gpt"), 2, "unknown reranker 'gpt'"),
    ],
)
def test_errors_are_one_readable_line(store: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    done = run(*(argument.replace("{store}", str(store)) for argument in arguments), code=code)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("new-store").exists()


def test_a_failed_index_leaves_no_store_that_blocks_the_next(tmp_path: Path, tiny_embedder: Path) -> None:
    run(
        "index", tmp_path / "typo", "--store", tmp_path / "s", "--embedder", tiny_embedder, "--reranker", "none", code=1
    )
    assert not (tmp_path / "s").exists()


def test_what_nobody_foresaw_is_a_line_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from qwen3_rag.cli import application

    monkeypatch.setattr(application, "app", lambda: 1 / 0)
    with pytest.raises(SystemExit) as ended:
        application.main()
    assert ended.value.code == 1
    assert "error: ZeroDivisionError: division by zero (run with --debug" in capsys.readouterr().err


def test_debug_shows_the_traceback() -> None:
    assert "Traceback" in run("--debug", "info", "nowhere", code=1).stderr


def test_verify_model_says_whether_a_checkpoint_agrees(tiny_reranker: Path) -> None:
    shown = run("verify-model", tiny_reranker).stdout
    assert "agrees: worst difference" in shown
    assert "ignore the rest" in shown


def test_help_names_every_command() -> None:
    shown = run("--help").stdout
    for name in ("index", "sync", "search", "get", "list", "info", "config", "verify-model", "demo"):
        assert name in shown
        assert "Usage" in run(name, "--help").stdout


@pytest.mark.parametrize("name", sorted(get_command(app).commands))  # type: ignore[attr-defined]
def test_every_command_shows_an_example_in_its_help(name: str) -> None:
    assert "Example: " in (get_command(app).commands[name].help or "")  # type: ignore[attr-defined]
