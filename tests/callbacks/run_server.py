"""Stands in for a W&B server on the loopback address, as far as it takes runs; it can stop to answer, or go away."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "local-" + "a" * 40
_VIEWER = {"id": "V", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}
_PROJECT = {"id": "P", "name": "tabom", "entity": {"id": "E", "name": "me"}}


class RunServer:
    """Answers what W&B asks when a run starts, sends and ends.

    Attributes:
        address: For ``WANDB_BASE_URL``.
        used: (run id, artifact's name) of every input that a run declared.
        lines: Of every run's history as they came in, by run id.
    """

    def __init__(self, is_answering=True):
        self.used = []
        self.lines = {}
        self._answering = threading.Event()
        self._is_gone = False
        if is_answering:
            self._answering.set()

    @contextlib.contextmanager
    def running(self):
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        try:
            yield self
        finally:
            self.go_away()

    def hang(self):
        """Take every request, and answer none of them."""
        self._answering.clear()

    def recover(self):
        """Answer again, also what was asked meanwhile."""
        self._answering.set()

    def go_away(self):
        """Refuse connections, and break those that there are at their next request."""
        self._is_gone = True
        self._answering.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def _handler(self):
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                server._answering.wait()
                if server._is_gone:
                    self.close_connection = True
                    return
                data = json.dumps(server._answer(self.path, body)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_PUT = do_POST  # noqa: N815

        return Handler

    def _answer(self, path, body):
        if path.endswith("/file_stream"):
            history = json.loads(body).get("files", {}).get("wandb-history.jsonl", {"content": []})
            self.lines.setdefault(path.split("/")[-2], []).extend(map(json.loads, history["content"]))
        if path != "/graphql":
            return {}
        request = json.loads(body)
        return {"data": self._data(request["query"], request.get("variables") or {})}

    def _data(self, query, variables):
        if "viewer" in query:
            return {"viewer": _VIEWER}
        if "upsertBucket" in query:
            bucket = {"id": "B", "name": variables["name"], "project": _PROJECT, "historyLineCount": 0}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.address}/files/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "B", "uploadHeaders": [], "files": files}}
        if "createArtifact(" in query:
            sequence = {"id": "S", "latestArtifact": {"id": "A", "versionIndex": 0}}
            name = variables["input"]["artifactCollectionName"]
            return {"createArtifact": {"artifact": {"id": name, "state": "COMMITTED", "artifactSequence": sequence}}}
        if "useArtifact(" in query:
            self.used.append((variables["input"]["runName"], variables["input"]["artifactID"]))
            return {"useArtifact": {"artifact": {"id": "A", "digest": ""}}}
        return {}
