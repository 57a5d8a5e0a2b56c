"""From model folders to a server that runs until it is stopped."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import uvicorn

from vqlm.lm import TextToImagePipeline
from vqlm.serve.app import create_app
from vqlm.serve.jobs import ServedModel
from vqlm.serve.settings import ServeConfig
from vqlm.serve.threads import in_passing_thread
from vqlm.training.errors import UserError

KEY_VARIABLE = "VQLM_API_KEY"


def load_models(
    folders: Sequence[Path | str], names: Sequence[str] = (), dtype: torch.dtype | str = torch.float32
) -> list[ServedModel]:
    """The models of finished folders, called as `names` says or as their folders.

    Raises UserError for a folder that is not a finished model or is damaged.
    """
    if names and len(names) != len(folders):
        raise UserError(f"`served_model_name` must have one name per model: {len(folders)}, found {len(names)}.")
    models = []
    for folder, name in zip(folders, names or [Path(folder).resolve().name for folder in folders], strict=True):
        try:
            pipeline = in_passing_thread(TextToImagePipeline.from_pretrained, folder, dtype=dtype)
        except UserError:
            raise
        except Exception as error:  # whatever transformers and safetensors raise for damaged files
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"{folder} cannot be loaded ({reason[:200]}); copy or train the model again.") from error
        models.append(ServedModel(name, pipeline))
    return models


def run_server(models: Sequence[ServedModel], config: ServeConfig) -> None:
    """Serve until SIGINT or SIGTERM; requests that run are finished first."""
    uvicorn.Server(uvicorn_config(models, config)).run()


def uvicorn_config(models: Sequence[ServedModel], config: ServeConfig) -> uvicorn.Config:
    """How uvicorn runs the application of these models."""
    if config.api_key is None and os.environ.get(KEY_VARIABLE):
        config = replace(config, api_key=os.environ[KEY_VARIABLE])
    return uvicorn.Config(
        create_app(models, config), host=config.host, port=config.port, log_level="info", access_log=False,
        timeout_graceful_shutdown=config.shutdown_seconds, server_header=False,
    )  # fmt: skip
