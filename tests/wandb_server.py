"""Stands in for a W&B server on the loopback address, as far as it creates a sweep and hands out its runs."""

import contextlib
import itertools
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

ENTITY = "me"
KEY = "local-" + "a" * 40


class SweepServer:
    """Knows one sweep and hands out the grid of its values; a run counts as started when it is handed out.

    Attributes:
        address: Of the server.
        sweep: As it was created, or None.
        project: Of the sweep.
        runs: For each that was handed out its values, in order.
    """

    def __init__(self):
        self.sweep = self.project = None
        self.runs = {}
        self._lock = threading.Lock()

    @property
    def environment(self):
        """Variables with which W&B's own programs ask this server."""
        return {"WANDB_BASE_URL": self.address, "WANDB_API_KEY": KEY, "WANDB_ENTITY": ENTITY}

    @contextlib.contextmanager
    def running(self):
        http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.address = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            http.shutdown()
            thread.join()
            http.server_close()

    def _handler(self):
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                self._answer({})

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if not self.path.endswith("graphql"):  # telemetry
                    self._answer({})
                    return
                request = json.loads(body)
                with server._lock:
                    self._answer({"data": server.answer(request["query"], request.get("variables") or {})})

            def _answer(self, content):
                data = json.dumps(content).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        return Handler

    def answer(self, query, variables):
        if "upsertSweep" in query:
            self.sweep, self.project = yaml.safe_load(variables["config"]), variables["projectName"]
            project = {"id": "P", "name": self.project, "entity": {"id": "E", "name": ENTITY}}
            sweep = {"name": "sweep1", "project": project}
            return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}
        if "SweepWithRuns" in query:
            config = yaml.dump(self.sweep)
            return {"project": {"sweep": {"id": "S", "name": "sweep1", "config": config, "runs": {"edges": []}}}}
        if "createAgent" in query:
            return {"createAgent": {"agent": {"id": "A"}}}
        if "agentHeartbeat" in query:
            states = json.loads(variables["runState"])
            return {"agentHeartbeat": {"agent": {"id": "A"}, "commands": json.dumps(self._commands(states))}}
        if "viewer" in query:
            return {"viewer": {"id": "V", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": {"edges": []}}}
        raise AssertionError(query)

    def _commands(self, states):
        """One run at a time; after the last the agent may go."""
        if any(states.values()):
            return []
        parameters = {name: values["values"] for name, values in self.sweep["parameters"].items()}
        grid = [dict(zip(parameters, v, strict=True)) for v in itertools.product(*parameters.values())]
        if len(self.runs) == len(grid):
            return [{"type": "exit"}]
        values, run_id = grid[len(self.runs)], f"run{len(self.runs) + 1}"
        self.runs[run_id] = values
        args = {name: {"value": value} for name, value in values.items()}
        return [{"type": "run", "run_id": run_id, "program": self.sweep["program"], "args": args}]
