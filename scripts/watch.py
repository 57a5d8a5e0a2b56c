"""Watch a training: a page of its curves and samples, which refreshes itself.

vqlm watch runs/mine

OUTPUT is the folder of `vqlm train`, `vqlm train-vq` or `vqlm train-lm`. It is only read. The page is served on this
machine until Ctrl-C; with --page it is written once, to a file that opens anywhere.
"""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from vqlm.scripts.options import script_parser
from vqlm.scripts.run_script import run_script
from vqlm.training.errors import UserError, require_range
from vqlm.training.folders.output_folder import require_writable
from vqlm.training.watching.watch_page import find_runs, watch_page


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("output", type=Path, help="Folder of the training.")
    parser.add_argument("--port", type=int, default=8765, help="Of this machine; 0 takes a free one.")
    parser.add_argument("--seconds", type=float, default=10.0, help="Between two looks.")
    parser.add_argument("--page", type=Path, help="Write the page to this HTML file instead, once.")
    settings = parser.parse_args(arguments)
    require_range(settings, "(0, inf)", "seconds")
    require_range(settings, "[0, 65535]", "port")
    if settings.page is not None:
        require_writable(settings.page.parent, "page")
        page = watch_page(settings.output)
        settings.page.parent.mkdir(parents=True, exist_ok=True)
        settings.page.write_text(page, encoding="utf-8")
        print(settings.page, flush=True)
        return
    find_runs(settings.output)  # before the browser is opened for nothing
    with make_server(settings.output, settings.port, settings.seconds) as server:
        print(f"http://127.0.0.1:{server.server_port}/ (Ctrl-C ends this page, not the training)", flush=True)
        server.serve_forever()


def make_server(output: Path, port: int, seconds: float) -> ThreadingHTTPServer:
    """A server of the page, for programs of this machine only."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/":
                self.send_error(404)
                return
            try:
                page, status = watch_page(output, seconds).encode(), 200
            except (UserError, OSError) as error:  # the folder was removed meanwhile
                page, status = str(error).encode(), 500
            self.send_response(status)
            self.send_header("Content-Type", f"text/{'html' if status == 200 else 'plain'}; charset=utf-8")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: a line per look would bury the address."""

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise UserError(f"Port {port} cannot be taken ({error.strerror}); give another `port`, or 0.") from None


if __name__ == "__main__":
    run_script(main)
