"""What is said when Spark, Java or their settings are not right; Spark itself is not started."""

import sys
from pathlib import Path

import pytest

from linguarec.data.engine import EngineChoice, open_engine
from linguarec.data.spark_session import _settings, check_java
from linguarec.errors import SettingsError


def fake_java(folder: Path, version: str, module: str = "jdk.incubator.vector") -> Path:
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-01-01' >&2\necho {module}@{version}\n")
    java.chmod(0o755)
    return folder


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither JAVA_HOME nor a java on the path."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("JAVA_HOME", "")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


def test_without_pyspark_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "pyspark"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyspark", None)
    with (
        pytest.raises(
            SettingsError, match=r"needs PySpark, which is not installed; run `pip install 'linguarec\[spark\]'`"
        ),
        open_engine(tmp_path, EngineChoice("spark")),
    ):
        pass


@pytest.mark.usefixtures("no_java")
def test_without_java_its_packages_are_named() -> None:
    with pytest.raises(SettingsError, match=r"needs Java, and there is none\. .*openjdk-17-jre-headless"):
        check_java()


@pytest.mark.parametrize(
    ("version", "right"), [("1.8.0_401", False), ("11.0.2", False), ("17.0.1", True), ("21", True)]
)
def test_an_old_java_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, right: bool) -> None:
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path / "jdk", version)))
    if right:
        check_java()
        return
    with pytest.raises(SettingsError, match=rf'needs Java 17 or later, but .*java is openjdk version "{version}"'):
        check_java()


def test_a_java_cut_down_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path / "jdk", "21.0.8", module="java.base")))
    with pytest.raises(SettingsError, match=r"needs a whole Java, but .*java lacks the module jdk\.incubator\.vector"):
        check_java()


def test_memory_and_master() -> None:
    settings = _settings(EngineChoice("spark", "1.5 GB", "spark://127.0.0.1:7077"))
    assert settings["spark.driver.memory"] == settings["spark.executor.memory"] == "1572864k"
    assert settings["spark.driver.bindAddress"] == "127.0.0.1"
    assert "spark.driver.host" not in _settings(EngineChoice("spark", "1GiB", "spark://host:7077"))
    with pytest.raises(SettingsError) as refused:
        _settings(EngineChoice("spark", "80%", "http://host"))
    assert "--memory is '80%'" in str(refused.value)
    assert "--master is 'http://host'" in str(refused.value)
