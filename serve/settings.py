"""The settings of the server. Needs neither torch nor FastAPI, so that the command line can name them quickly."""

from dataclasses import dataclass, field

from vqlm.training.errors import UserError


@dataclass(kw_only=True)
class ServeConfig:
    """How models are served.

    Args:
        host: address to listen at; 0.0.0.0 makes the server reachable from other machines.
        port: port to listen at; 0 takes a free one.
        api_key: key that clients must send as `Authorization: Bearer KEY`; by default none is needed. The environment
            variable VQLM_API_KEY sets it too, and does not show it in the list of processes.
        served_model_name: names of the models, one per model in their order; by default those of their folders.
        aliases: further names, as ALIAS=NAME, for clients that have a name built in.
        page: whether the server also has a page to draw on, at its root.
        strict_sizes: refuse every size but the model's own, instead of scaling the picture.
        max_slots: rows of the KV cache per model; a picture takes one, with guidance two.
        max_queue: requests that may wait for a free slot; more are refused with status 429.
        timeout: seconds that a request may take, waiting included.
        max_body: bytes that a request may have.
        max_pixels: pixels that an uploaded or an enlarged picture may have.
        cors_origins: origins whose web pages may call the server from a browser; by default none.
        shutdown_seconds: seconds that running requests get to finish when the server is stopped.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    served_model_name: list[str] = field(default_factory=list)
    aliases: list[str] = field(default_factory=list)
    page: bool = False
    strict_sizes: bool = False
    max_slots: int = 64
    max_queue: int = 256
    timeout: float = 120.0
    max_body: int = 32 * 2**20
    max_pixels: int = 4096 * 4096
    cors_origins: list[str] = field(default_factory=list)
    shutdown_seconds: int = 30

    def __post_init__(self):
        if not 0 <= self.port < 2**16:
            raise UserError(f"`port` must lie in [0, 65535], found {self.port}.")
        if self.api_key == "":
            raise UserError("`api_key` must not be empty; leave it out to need none.")
        if self.api_key is not None and self.page:
            raise UserError(
                "The page has no field for a key; leave out `page`, or `api_key` and the variable VQLM_API_KEY."
            )
        if self.max_slots < 2:
            raise UserError(
                f"`max_slots` must be at least 2, which a picture with guidance takes; found {self.max_slots}."
            )
        for name in ("max_queue", "timeout", "max_body", "max_pixels", "shutdown_seconds"):
            if getattr(self, name) <= 0:
                raise UserError(f"`{name}` must be above 0, found {getattr(self, name)}.")
        if wrong := [alias for alias in self.aliases if not all(alias.partition("=")[::2])]:
            raise UserError(f"`aliases` are written ALIAS=NAME, found {wrong[0]!r}.")
