"""Serve finished models behind OpenAI's image API.

vqlm serve --model runs/model
vqlm serve --model runs/model --port 9000 --aliases "[gpt-image-1=model]"
vqlm serve --model runs/cats --model runs/dogs --api-key SECRET --host 0.0.0.0
"""

import importlib.util
from typing import Literal

from vqlm.lm.model_folder.names import settings_of
from vqlm.scripts.options import script_parser
from vqlm.scripts.run_script import run_script
from vqlm.scripts.settings_options import values_of
from vqlm.serve.settings import ServeConfig
from vqlm.training.errors import UserError
from vqlm.training.extras import install_hint

FIRST = ("model", "host", "port", "api_key", "served_model_name", "aliases", "strict_sizes", "dtype")


def main(arguments: list[str] | None = None, page: bool = False, description: str | None = __doc__) -> None:
    parser = script_parser(description, FIRST)
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        help="Folder that vqlm train-lm finished, or OWNER/NAME of the hub; more than once for several.",
    )
    parser.add_argument(
        "--dtype", type=Literal["float32", "bfloat16"], default="float32",
        help="Precision of the language model's weights; bfloat16 is faster where the machine multiplies it fast.",
    )  # fmt: skip
    parser.add_class_arguments(ServeConfig)
    parser.set_defaults(page=page)
    settings = parser.parse_args(arguments)
    config = values_of(ServeConfig, settings)
    for model in settings.model:
        settings_of(model)
    for package in ("fastapi", "uvicorn", "multipart", "prometheus_client"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"Serving needs the package {package}; install it: {install_hint('serve')}.")

    from vqlm.serve.server import load_models, run_server

    run_server(load_models(settings.model, config.served_model_name, settings.dtype), config)


if __name__ == "__main__":
    run_script(main)
