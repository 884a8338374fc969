"""The sections of the configuration: every key with its bounds, its default and its reason.

`config.py` reads them from a file, the environment and flags.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

_MS_HOUR, _MS_DAY = 3_600_000, 86_400_000


class Frozen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


def _d(text: str, **limits: Any) -> Meta:
    return Meta(description=text, **limits)


class Horizon(Frozen, frozen=True):
    """One sliding window: the last `tiles` tiles that together span `window_ms`."""

    name: str
    window_ms: Annotated[int, Meta(ge=1000)]
    tiles: Annotated[int, Meta(ge=1, le=1024)]


class Input(Frozen, frozen=True):
    field_map: Annotated[
        dict[str, str], _d("contract field -> dotted path in your events, e.g. event_time = 'ts'")
    ] = {}
    type_map: Annotated[dict[str, str], _d("your event type -> contract type, e.g. order = 'purchase'")] = {}
    constants: Annotated[dict[str, str], _d("contract field -> value where the event has none")] = {}
    time_unit: Annotated[
        Literal["ms", "s", "us"], _d("unit of numeric event times; RFC 3339 text is always read")
    ] = "ms"
    convention: Annotated[
        Literal["shoal", "segment", "ga4"], _d("event convention that is turned into the contract's")
    ] = "shoal"
    value_max_bytes: Annotated[int, _d("larger records are rejected (size)", ge=256, le=1 << 24)] = 65_536
    money_max: Annotated[float, _d("values beyond this are clamped and counted", gt=0, le=1e12)] = 1e7


class Time(Frozen, frozen=True):
    lateness_ms: Annotated[int, _d("how far behind the newest event the watermark stays", ge=0)] = _MS_HOUR
    future_skew_ms: Annotated[
        int, _d("event times beyond the wall clock by more than this are clamped", ge=0)
    ] = 300_000
    idle_step_ms: Annotated[
        int,
        _d("with no input, how often to see whether a window moved; a step is made only if one did", ge=100),
    ] = 10_000


class Features(Frozen, frozen=True):
    horizons: Annotated[
        tuple[Horizon, ...], _d("sliding windows, shortest first; each a name, a span and its tiles")
    ] = (
        Horizon(name="1h", window_ms=_MS_HOUR, tiles=6),
        Horizon(name="1d", window_ms=_MS_DAY, tiles=6),
        Horizon(name="7d", window_ms=7 * _MS_DAY, tiles=7),
        Horizon(name="30d", window_ms=30 * _MS_DAY, tiles=6),
    )
    interest_dim: Annotated[int, _d("dimensions of the interest family; 0 leaves it out", ge=0, le=512)] = 32
    interest_half_life_ms: Annotated[int, _d("age at which a touch counts half", ge=60_000)] = 14 * _MS_DAY
    interest_weight: Annotated[
        float, _d("weight of the interest family against the activity family", ge=0, le=100)
    ] = 2.0
    clip: Annotated[float, _d("scaled features are clipped to +- this many deviations", gt=0, le=100)] = 4.0
    users_max: Annotated[int, _d("users kept; the longest silent ones leave first", ge=16, le=50_000_000)] = (
        200_000
    )
    keep_ms: Annotated[int, _d("a user silent for longer than this is forgotten", ge=0)] = 180 * _MS_DAY
    dedup_max: Annotated[
        int, _d("event ids remembered; the oldest are forgotten first", ge=1024, le=1 << 30)
    ] = 1 << 20
    sweep_rows_max: Annotated[int, _d("silent users re-scored per step at most", ge=0, le=1_000_000)] = 1024
    seed: Annotated[int, _d("seed of the item projection", ge=0)] = 1


class Encoder(Frozen, frozen=True):
    kind: Annotated[
        Literal["autoencoder", "linear", "identity"], _d("what turns a feature row into an embedding")
    ] = "autoencoder"
    dim: Annotated[int, _d("dimensions of the embedding (identity: the row's own)", ge=1, le=1024)] = 32
    hidden: Annotated[int, _d("hidden units of the autoencoder", ge=1, le=8192)] = 64
    learning_rate: Annotated[float, _d("Adam step of the autoencoder", gt=0, le=1)] = 1e-3
    batch: Annotated[int, _d("rows per gradient step, half of them replayed", ge=2, le=65_536)] = 256
    warmup_steps: Annotated[
        int,
        _d(
            "gradient steps on the warm-up buffer at most, before the first weights serve", ge=1, le=1_000_000
        ),
    ] = 2000
    replay_rows: Annotated[
        int, _d("rows in the replay reservoir, so that it does not forget", ge=16, le=1 << 22)
    ] = 2048
    publish_every_rows: Annotated[
        int, _d("learned rows between two attempts to publish new weights", ge=1)
    ] = 20_000
    churn_budget: Annotated[
        float, _d("a publication that would move a larger share of users is refused", ge=0, le=1)
    ] = 0.03
    seed: Annotated[int, _d("seed of the weights and of the reservoir", ge=0)] = 1


class Segmenter(Frozen, frozen=True):
    backend: Annotated[
        Literal["shoal", "river"], _d("compiled kernel, or river.cluster.KMeans itself (slow)")
    ] = "shoal"
    mode: Annotated[
        Literal["adaptive", "constant"],
        _d("steps that find their size and centres that are put right; or River's rule alone, with `step`"),
    ] = "adaptive"
    segments: Annotated[int, _d("number of centres, the largest if `segments_min` is set", ge=1, le=4096)] = (
        32
    )
    segments_min: Annotated[
        int, _d("smallest number of centres, found between this and `segments`; 0: always `segments`", ge=0)
    ] = 0
    step: Annotated[
        float, _d("constant mode, River's `halflife`: share of the gap a centre moves per row", gt=0, lt=1)
    ] = 0.02
    warmup_rows: Annotated[
        int, _d("rows buffered before the centres are seeded by k-means++", ge=1, le=1 << 20)
    ] = 2048
    warmup_ms: Annotated[int, _d("stream time after which the centres are seeded with fewer rows", ge=0)] = (
        _MS_DAY
    )
    seed: Annotated[int, _d("seed of k-means++", ge=0)] = 1


class Membership(Frozen, frozen=True):
    margin: Annotated[
        float,
        _d("lead of another centre that counts for nothing; 0: the border, 1: at that centre", ge=0, lt=1),
    ] = 0.15
    clear_lead: Annotated[
        float, _d("lead beyond the margin with which a scoring counts as a whole one", gt=0, le=2)
    ] = 0.5
    confirmations: Annotated[
        int, _d("scorings it takes to move; more where they are not clear", ge=1, le=100)
    ] = 3
    smoothing_ms: Annotated[
        int, _d("stream time in which one scoring's evidence is forgotten; 0: never", ge=0)
    ] = 4 * _MS_DAY
    silence_ms: Annotated[
        int, _d("silence that counts as one scoring; 0: every look at a silent user counts", ge=0)
    ] = _MS_DAY
    patience: Annotated[
        float, _d("how much harder every change makes the next; 0: no harder", ge=0, le=10)
    ] = 0.25
    patience_ms: Annotated[
        int, _d("stream time in which one earlier change is forgotten; 0: never", ge=0)
    ] = 30 * _MS_DAY
    dwell_ms: Annotated[int, _d("a user stays at least this long in a segment (stream time)", ge=0)] = 0
    counterfactuals_max: Annotated[
        int,
        _d(
            "changes of a step that say what would have been enough to be decided otherwise; the closest",
            ge=0,
        ),
    ] = 8
    catalog_every_rows: Annotated[
        int, _d("learned rows between two catalog updates; there is at least one a day", ge=1)
    ] = 50_000
    new_ms: Annotated[int, _d("a user first seen less than this ago is `new`", ge=_MS_HOUR)] = 7 * _MS_DAY
    silent_ms: Annotated[
        int,
        _d("a user silent for longer is `silent`, whatever its rhythm; `at_risk` after half", ge=_MS_HOUR),
    ] = 90 * _MS_DAY


class Privacy(Frozen, frozen=True):
    user_key_file: Annotated[
        str,
        _d(
            "file with a secret key of 32 or more random bytes: users leave the process as pseudonyms only; "
            "or SHOAL_PRIVACY_USER_KEY in the environment"
        ),
    ] = ""
    user_key_version: Annotated[
        int, _d("number of that key, part of each pseudonym: raise it with every new key", ge=1, le=9999)
    ] = 1
    floor_members: Annotated[
        int,
        _d("a segment with fewer users is published as part of another one; 0: no floor", ge=0, le=1000),
    ] = 0
    floor_release: Annotated[
        float,
        _d("how far above the floor it must be to be published by itself again, as a share", ge=0, le=10),
    ] = 0.25
    size_epsilon: Annotated[
        float,
        _d("differential privacy of one publication of sizes, in steps of 0.001; 0: true sizes", ge=0, le=10),
    ] = 0.0
    size_epsilon_per_day: Annotated[
        float, _d("budget of a day of stream time; when it is spent, sizes are repeated", ge=0, le=1000)
    ] = 1.0


class Control(Frozen, frozen=True):
    aliases_max: Annotated[
        int, _d("names merged into others, kept at most; a merge beyond that is refused", ge=0, le=10_000_000)
    ] = 100_000
    refusals_max: Annotated[
        int, _d("users without consent, kept at most; beyond that a withdrawal is refused", ge=0, le=1 << 24)
    ] = 1_000_000
    pins_max: Annotated[
        int, _d("users held in a segment at most; a pin beyond that is refused", ge=0, le=1_000_000)
    ] = 10_000


class Engine(Frozen, frozen=True):
    step_records_max: Annotated[int, _d("records in one step at most", ge=1, le=1_000_000)] = 8192
    step_bytes_max: Annotated[int, _d("output bytes in flight per step at most", ge=1 << 16)] = 64 << 20
    poll_timeout_s: Annotated[float, _d("longest wait for input before looking round", gt=0, le=60)] = 0.1
    state_dir: Annotated[str, _d("folder of the snapshots; empty: none are kept")] = ""
    snapshot_every_steps: Annotated[int, _d("steps between two snapshots", ge=1)] = 200
    stuck_after_s: Annotated[
        float, _d("the process ends itself after this long without progress; 0: never", ge=0)
    ] = 300.0
    snapshots_kept: Annotated[int, _d("older snapshots are removed", ge=1, le=1000)] = 3


class Kafka(Frozen, frozen=True):
    client: Annotated[
        Literal["kafka-python", "confluent"],
        _d(
            "client library; confluent needs `pip install shoal[confluent]`, the same for all engines of a group"
        ),
    ] = "kafka-python"
    bootstrap_servers: Annotated[str, _d("brokers, host:port separated by commas")] = "127.0.0.1:9092"
    events_topic: Annotated[str, _d("input topic, without the prefix")] = "behavior.events"
    control_topic: Annotated[
        str, _d("topic of commands, without the prefix; empty: none is read. See `shoal control`")
    ] = "segment.control"
    topic_prefix: Annotated[str, _d("put before every topic name")] = ""
    group_id: Annotated[str, _d("consumer group; one engine of a group works at a time")] = "shoal"
    transactional_id: Annotated[
        str, _d("empty: `shoal-` + group id; the newest engine fences the others")
    ] = ""
    create_topics: Annotated[bool, _d("create missing topics instead of refusing to start")] = False
    partitions: Annotated[int, _d("partitions of created topics (the manifest always has one)", ge=1)] = 4
    replication_factor: Annotated[int, _d("replication of created topics", ge=1, le=15)] = 1
    security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], _d("how to speak to the brokers")
    ] = "PLAINTEXT"
    sasl_mechanism: Annotated[str, _d("PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")] = ""
    sasl_username: Annotated[str, _d("user name for SASL")] = ""
    sasl_password_file: Annotated[
        str, _d("file that holds the SASL password; or SHOAL_KAFKA_SASL_PASSWORD in the environment")
    ] = ""
    ssl_cafile: Annotated[str, _d("certificate authority file")] = ""
    ssl_certfile: Annotated[str, _d("client certificate file")] = ""
    ssl_keyfile: Annotated[str, _d("client key file")] = ""
    transaction_timeout_ms: Annotated[
        int, _d("the broker aborts a step's transaction after this", ge=1000)
    ] = 60_000
    delivery_timeout_ms: Annotated[int, _d("a record not delivered by then ends the process", ge=1000)] = (
        30_000
    )
    session_timeout_ms: Annotated[int, _d("the group gives up a silent engine after this", ge=1000)] = 10_000
    broker_wait_s: Annotated[float, _d("how long an absent broker is waited for", ge=0)] = 120.0


class Http(Frozen, frozen=True):
    host: Annotated[str, _d("address of /metrics, /healthz and /readyz; loopback unless configured")] = (
        "127.0.0.1"
    )
    port: Annotated[int, _d("0: no HTTP server", ge=0, le=65_535)] = 9108
    users: Annotated[
        Literal["loopback", "on", "off"],
        _d("who may ask about single users: only this machine; whoever reaches the port; nobody"),
    ] = "loopback"
    stuck_after_s: Annotated[
        float, _d("/healthz says 503 after this long without a sign of the engine", gt=0)
    ] = 120.0
    waiting_max_s: Annotated[float, _d("the same while starting or waiting for the broker", gt=0)] = 600.0
