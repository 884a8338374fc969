"""Configuration: one file, then variables, then flags; nothing unknown, nothing secret shown."""

from pathlib import Path

import pytest

from shoal.stream.config import PURE_SECTIONS, Config, keys, load
from shoal.stream.config_text import describe
from shoal.stream.ports import ConfigError


def _load(
    text: str, tmp_path: Path, environ: dict[str, str] | None = None, overrides: tuple[str, ...] = ()
) -> Config:
    path = tmp_path / "shoal.toml"
    path.write_text(text)
    return load(path, overrides, environ or {})


def test_defaults_are_valid():
    """With nothing given, the defaults are a whole configuration."""
    assert load(environ={}) == Config()


def test_flags_win_over_variables_and_variables_over_the_file(tmp_path):
    """Priority rises from file to environment to flags."""
    text = "[segmenter]\nsegments = 3\nstep = 0.5\nseed = 3\n"
    environ = {"SHOAL_SEGMENTER_SEGMENTS": "4", "SHOAL_SEGMENTER_STEP": "0.25"}
    config = _load(text, tmp_path, environ, ("segmenter.segments=5",))
    assert (config.segmenter.segments, config.segmenter.step, config.segmenter.seed) == (5, 0.25, 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[segmentr]\nsegments = 3\n", ["segmentr", "did you mean 'segmenter'"]),
        ("[segmenter]\nsegment = 3\n", ["'segment'", "did you mean 'segments'"]),
        ("[segmenter]\nsegments = 'many'\n", ["segmenter.segments: got 'many', wanted a whole number"]),
        (
            "[segmenter]\nsegments = 0\n",
            ["shoal.toml: segmenter.segments: got 0, wanted a whole number >= 1"],
        ),
        ("[kafka]\nsecurity_protocol = 'TLS'\n", ["got 'TLS', wanted one of PLAINTEXT, SSL"]),
        ("[features]\nhorizons = [{name='a', window_ms='x', tiles=1}]\n", ["horizons[0].window_ms: wanted"]),
        ("segments = 0\n", ["segments"]),
        ("[segmenter\n", ["not valid TOML"]),
        ("[features]\nhorizons = [{name='a', window_ms=1000, tiles=3}]\n", ["multiple", "3 tiles"]),
        ("[features]\nhorizons = []\n", ["at least one"]),
        ("[engine]\nstep_records_max = 300000\n", ["users_max"]),
        ("[segmenter]\nsegments = 64\nwarmup_rows = 32\n", ["warmup_rows", "64"]),
    ],
)
def test_a_wrong_configuration_is_named_with_the_next_step(text, words, tmp_path):
    """What is wrong stands in the error: the key, what it got, what is near."""
    with pytest.raises(ConfigError) as error:
        _load(text, tmp_path)
    for word in words:
        assert word in str(error.value)


def test_a_variable_that_names_no_key_is_refused(tmp_path):
    """A typing error in the environment is not passed over in silence."""
    with pytest.raises(ConfigError, match="SHOAL_SEGMENTER_SEGMENT"):
        _load("", tmp_path, {"SHOAL_SEGMENTER_SEGMENT": "3"})


def test_a_misspelt_section_in_the_environment_is_refused_too():
    """The whole variable counts, not only what follows a known section."""
    with pytest.raises(ConfigError, match="did you mean 'SHOAL_SEGMENTER_SEGMENTS'"):
        load(environ={"SHOAL_SEGMENTR_SEGMENTS": "3"})


def test_what_kubernetes_sets_for_a_service_of_our_name_is_not_a_typing_error():
    """A service called shoal, or shoal-kafka, puts such variables into every pod; the engine starts all the same."""
    links = ("SHOAL_PORT", "SHOAL_SERVICE_HOST", "SHOAL_KAFKA_SERVICE_HOST", "SHOAL_KAFKA_SERVICE_PORT_TLS",
             "SHOAL_KAFKA_PORT", "SHOAL_KAFKA_PORT_9092_TCP", "SHOAL_KAFKA_PORT_9092_TCP_ADDR")  # fmt: skip
    assert load(environ=dict.fromkeys(links, "tcp://10.0.0.1:9092")) == Config()


def test_the_error_names_where_the_value_came_from(tmp_path):
    """A value from a variable or a flag is not blamed on the file."""
    with pytest.raises(ConfigError, match=r"^SHOAL_SEGMENTER_SEGMENTS: segmenter.segments: got -1"):
        _load("", tmp_path, {"SHOAL_SEGMENTER_SEGMENTS": "-1"})
    with pytest.raises(ConfigError, match=r"^--set: segmenter.step: got 2.0, wanted a number < 1"):
        _load("", tmp_path, overrides=("segmenter.step=2",))
    with pytest.raises(ConfigError, match=r"--set input.field_map: got 'ts', wanted a TOML table"):
        _load("", tmp_path, overrides=("input.field_map=ts",))


def test_a_missing_file_is_a_clear_error(tmp_path):
    """A file that is not there is said to be not there."""
    with pytest.raises(ConfigError, match=r"nowhere.toml.*cannot be read"):
        load(tmp_path / "nowhere.toml", environ={})


def test_tables_can_be_given_on_the_command_line(tmp_path):
    """Maps and lists are written as TOML values."""
    config = _load("", tmp_path, overrides=('input.field_map={event_time = "ts"}',))
    assert config.input.field_map == {"event_time": "ts"}


def test_every_key_has_a_reason():
    """No key without a description: the README and `shoal doctor --keys` are made from them."""
    assert [key.path for key in keys() if not key.text] == []
    assert len(keys()) > 40


def test_what_is_shown_can_be_read_back(tmp_path):
    """The configuration printed at start is itself a configuration file."""
    config = load(environ={}, overrides=['input.field_map={item_id = "sku"}', "kafka.create_topics=true"])
    assert _load(describe(config), tmp_path) == config


def test_only_the_pure_sections_reach_the_hash():
    """Where a run is deployed does not change what it computes."""
    config = load(environ={})
    moved = load(
        environ={}, overrides=["kafka.bootstrap_servers=elsewhere:1", "http.port=0", "engine.state_dir=x"]
    )
    assert moved.pure_hash() == config.pure_hash()
    other = load(environ={}, overrides=["segmenter.step=0.5"])
    assert other.pure_hash() != config.pure_hash()
    assert set(PURE_SECTIONS) < set(Config.__struct_fields__)


def test_the_password_is_not_a_key():
    """Secrets come from the environment or from files; there is no key that could print one."""
    assert not [key.path for key in keys() if key.name in {"password", "sasl_password", "secret"}]
