"""The fields of a request: which are honoured, which are accepted without effect, which are refused.

One table, `FIELDS`, checks requests, describes them in the OpenAPI document and is the table of docs/serve.md.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vqlm.serve.errors import ApiError, wrong

Policy = Literal["honoured", "no effect", "refused"]
MOST_PICTURES = 10
MOST_SEED = 2**63 - 1 - MOST_PICTURES
BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


@dataclass(frozen=True)
class Field:
    """One field: its JSON schema says which values are accepted.

    Args:
        name: as clients send it.
        schema: JSON schema of type, enum, minimum and maximum.
        policy: what happens to it.
        note: one line for the docs.
        default: value when it is not sent or null.
        only: the endpoint that has it; by default both have.
    """

    name: str
    schema: Mapping[str, Any]
    policy: Policy
    note: str
    default: Any = None
    only: Literal["generations", "edits"] | None = None

    def read(self, value: Any, is_form: bool) -> Any:
        """The value in its type. A form holds text only. Raises ApiError for a wrong one."""
        if self.policy == "refused":
            raise wrong(self.name, f"`{self.name}` is not supported here: {self.note}.", "unsupported_parameter")
        value = self._typed(value, is_form)
        if "enum" in self.schema and value not in self.schema["enum"]:
            known = ", ".join(self.schema["enum"])
            raise wrong(self.name, f"`{self.name}` must be one of {known}; found {_shown(value)}.")
        if "minimum" in self.schema and value < self.schema["minimum"]:
            raise wrong(
                self.name,
                f"`{self.name}` must be at least {self.schema['minimum']:g}, found {_shown(value)}.",
                "below_minimum",
            )
        if "maximum" in self.schema and value > self.schema["maximum"]:
            raise wrong(
                self.name,
                f"`{self.name}` must be at most {self.schema['maximum']:g}, found {_shown(value)}.",
                "above_maximum",
            )
        return float(value) if self.schema["type"] == "number" else value

    def _typed(self, value: Any, is_form: bool) -> Any:
        kind = self.schema["type"]
        error = wrong(self.name, f"`{self.name}` must be of type {kind}, found {_shown(value)}.", "invalid_type")
        if is_form and kind != "string":
            if not isinstance(value, str):
                raise error
            try:
                value = BOOLEANS[value.lower()] if kind == "boolean" else (int if kind == "integer" else float)(value)
            except (ValueError, KeyError):
                raise error from None
        if kind == "string":
            if not isinstance(value, str):
                raise error
            if not value.isascii():
                try:
                    value.encode()
                except UnicodeEncodeError:
                    raise wrong(
                        self.name, f"`{self.name}` is not valid text: it has half of a surrogate pair."
                    ) from None
        elif kind == "boolean":
            if not isinstance(value, bool):
                raise error
        else:
            number = int if kind == "integer" else (int, float)
            is_infinite = isinstance(value, float) and not math.isfinite(value)
            if isinstance(value, bool) or not isinstance(value, number) or is_infinite:
                raise error
        return value


def _shown(value: Any) -> str:
    """A value for an error's message, cut and without half surrogates."""
    return ascii(value)[:80]


def _text(**more: Any) -> dict[str, Any]:
    return {"type": "string", **more}


def _choice(*values: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(values)}


def _integer(minimum: int, maximum: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": minimum, "maximum": maximum}


def _number(minimum: float, maximum: float) -> dict[str, Any]:
    return {"type": "number", "minimum": minimum, "maximum": maximum}


QUALITIES = ("auto", "low", "medium", "high", "xhigh", "max", "standard", "hd")
FIELDS = [
    Field("prompt", _text(), "honoured", "what to draw; required"),
    Field("model", _text(), "honoured", "a name or alias of `/v1/models`; by default the first model"),
    Field("n", _integer(1, MOST_PICTURES), "honoured", "pictures", 1),
    Field(
        "size",
        _text(),
        "honoured",
        "`auto`, or `WIDTHxHEIGHT` of the model's aspect ratio; pictures are resized",
        "auto",
    ),
    Field("output_format", _choice("png", "jpeg", "webp"), "honoured", "file format of the pictures", "png"),
    Field("output_compression", _integer(0, 100), "honoured", "quality of `jpeg` and `webp`; has to be 100 for `png`"),
    Field("background", _choice("auto", "opaque"), "honoured", "pictures are opaque; `transparent` is refused", "auto"),
    Field("response_format", _choice("b64_json", "url"), "honoured", "a `url` is kept for ten minutes", "b64_json"),
    Field("stream", {"type": "boolean"}, "honoured", "server-sent events instead of one answer", False),
    Field("partial_images", _integer(0, 3), "honoured", "with `stream`: unfinished pictures that are sent", 0),
    Field(
        "partial_rows",
        {"type": "boolean"},
        "honoured",
        "with `stream`: one after each row, at most 10 per second",
        False,
    ),
    Field("user", _text(), "honoured", "returned as `safety_identifier`, and nothing else"),
    Field("safety_identifier", _text(), "honoured", "returned as it is, and nothing else"),
    Field("quality", _choice(*QUALITIES), "no effect", "a model has one quality; the answer says `high`"),
    Field("moderation", _choice("low", "auto"), "no effect", "nothing is moderated"),
    Field("style", _choice("vivid", "natural"), "no effect", "write the style into the prompt"),
    Field("complexity", _choice("low", "medium", "high"), "no effect", "nothing is planned beforehand"),
    Field("num_inference_steps", _integer(1, 10_000), "no effect", "a picture takes one step per code"),
    Field("input_fidelity", _choice("high", "low"), "no effect", "what is not masked stays", only="edits"),
    Field("svg", {"type": "object"}, "refused", "pictures are made of pixels"),
    Field("frame_count", {"type": "integer"}, "refused", "pictures do not move"),
    Field("frame_duration_ms", {"type": "integer"}, "refused", "pictures do not move"),
    Field(
        "seed",
        _integer(0, MOST_SEED),
        "honoured",
        "picture i of the n is drawn with `seed + i * rerank`; by default random",
    ),
    Field("negative_prompt", _text(), "honoured", "what guidance leads away from"),
    Field("guidance_scale", _number(0.0, 1000.0), "honoured", "weight of the prompt; by default the model's"),
    Field("guidance_schedule", _choice("constant", "cosine"), "honoured", "see `SamplingConfig`"),
    Field(
        "temperature",
        _number(0.0, 1000.0),
        "honoured",
        "0 takes the likeliest code; by default the model's, and at least 1 if `n` is above 1",
    ),
    Field("top_k", _integer(0, 10**9), "honoured", "0 keeps all; by default the model's"),
    Field("top_p", _number(0.0, 1.0), "honoured", "in (0, 1], 1 keeps all; by default the model's"),
    Field("min_p", _number(0.0, 1.0), "honoured", "0 keeps all; by default the model's"),
    Field("rerank", _integer(1, 16), "honoured", "pictures drawn for each that is kept", 1, "generations"),
    Field("candidates", _integer(1, 16), "honoured", "fillings drawn for each that is kept", 8, "edits"),
    Field("share", _number(0.0, 1.0), "honoured", "without a mask: share of codes drawn again, above 0", 0.5, "edits"),
]
FILES = ("image", "mask")
SAMPLING = ("guidance_scale", "guidance_schedule", "temperature", "top_k", "top_p", "min_p")


def fields_of(endpoint: str) -> dict[str, Field]:
    """The fields that `generations` or `edits` knows, by name."""
    return {field.name: field for field in FIELDS if field.only in (None, endpoint)}


def read_fields(body: Mapping[str, Any], endpoint: str, is_form: bool = False) -> dict[str, Any]:
    """Every field's value, defaults filled in. Raises ApiError for an unknown, wrong or missing one."""
    known = fields_of(endpoint)
    values = {name: field.default for name, field in known.items()}
    for name, value in body.items():
        if name not in known:
            raise wrong(name[:80], f"There is no parameter {_shown(name)}; the docs list all.", "unknown_parameter")
        if value is not None:
            values[name] = known[name].read(value, is_form)
    if values["prompt"] is None:
        raise ApiError(400, "missing_required_parameter", "`prompt` is missing; say what to draw.", "prompt")
    if not values["prompt"].strip():
        raise wrong("prompt", "`prompt` is empty; say what to draw.", "empty_prompt")
    for name in ("partial_images", "partial_rows"):
        if values[name] and not values["stream"]:
            raise wrong(name, f"`{name}` has no effect without `stream`; set it to true.")
    if values["partial_images"] and values["partial_rows"]:
        raise wrong("partial_rows", "`partial_rows` shows every row; leave out `partial_images`.")
    if values["output_compression"] not in (None, 100) and values["output_format"] == "png":
        raise wrong("output_compression", "`output_compression` below 100 has no effect on png; take jpeg or webp.")
    return values


def schema_of(endpoint: str) -> dict[str, Any]:
    """The JSON schema of a request's fields."""
    properties = {
        field.name: {**field.schema, "description": field.note}
        for field in fields_of(endpoint).values()
        if field.policy != "refused"
    }
    properties["prompt"] = {"type": "string", "minLength": 1, "description": fields_of(endpoint)["prompt"].note}
    return {"type": "object", "required": ["prompt"], "properties": properties, "additionalProperties": False}


def fields_table() -> str:
    """The table of docs/serve.md."""
    rows = ["| field | values | policy | |", "|---|---|---|---|"]
    for field in FIELDS:
        where = f" (`{field.only}` only)" if field.only else ""
        rows.append(f"| `{field.name}` | {_values(field.schema)} | {field.policy} | {field.note}{where} |")
    return "\n".join(rows)


def _values(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "minimum" in schema and schema["maximum"] < 10**6:
        return f"{schema['type']}, {schema['minimum']:g} to {schema['maximum']:g}"
    return schema["type"]
