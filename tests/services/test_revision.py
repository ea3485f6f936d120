import subprocess

import pytest

from services.revision import Revision, revision
from services.settings import ROOT, load


@pytest.fixture
def tree(tmp_path):
    def git(*arguments):
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "--quiet")
    (tmp_path / "file").write_text("one\n")
    git("add", "file")
    git("commit", "--quiet", "--message", "one")
    return tmp_path, git("rev-parse", "HEAD")


def test_a_checkout_names_its_commit_whatever_it_is_told(tree):
    root, commit = tree
    assert revision("told", root) == Revision(commit, dirty=False)


def test_changed_files_are_dirty(tree):
    root, commit = tree
    (root / "file").write_text("two\n")
    assert revision("dirty", root) == Revision(commit, dirty=True)


def test_a_tree_that_came_without_git_is_told_its_commit(tmp_path):
    assert revision("abc", tmp_path) == Revision("abc", dirty=False)
    assert revision("", tmp_path).commit == "unknown"


def test_settings_come_from_the_environment_and_have_places_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setenv("TILUS_STORE", str(tmp_path))
    monkeypatch.setenv("TILUS_COMPILERS", "3")
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere")
    settings = load()
    assert (settings.store, settings.compilers) == (tmp_path, 3)
    assert settings.redis_url == "redis://elsewhere"
    assert settings.results == ROOT / "results" and settings.state == ROOT / ".state"


def test_a_password_is_not_printed(monkeypatch):
    monkeypatch.setenv("TILUS_REDIS_PASSWORD", "hunter2")
    assert load().redis_password.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(load())
