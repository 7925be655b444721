"""A stand-in for the Hugging Face Hub: what its client asks for to upload and download a model."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse


class Hub(http.server.ThreadingHTTPServer):
  """Serves repositories on this machine.

  Attributes:
    repositories: {"owner/name": {revision: {path: bytes}}}; a revision may be a commit as well.
    asked: "METHOD path" of each request.
    refuse: {"owner/name": (status, code of the error)}.
  """

  daemon_threads = True

  def __init__(self):
    super().__init__(("127.0.0.1", 0), Handler)
    self.repositories, self.asked, self.refuse = {}, [], {}
    self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"

  def commit(self, name, files, revision="main"):
    """Adds files to a repository."""
    revisions = self.repositories.setdefault(name, {})
    files = {**revisions.get(revision, {}), **files}
    revisions[revision] = revisions[commit_of(files)] = files


def commit_of(files):
  text = repr(sorted((path, digest(content)) for path, content in files.items()))
  return digest(text.encode())


def digest(content):
  return hashlib.sha1(content).hexdigest()


@contextlib.contextmanager
def running():
  """A Hub that answers while the `with` block runs."""
  hub = Hub()
  thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
  thread.start()
  try:
    yield hub
  finally:
    hub.shutdown()
    hub.server_close()
    thread.join()


class Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"

  def do_GET(self):
    path = self.note()
    if match := re.fullmatch(r"/api/models/(\w+/\w+)(?:/revision/([^/]+))?", path):
      name, revision = match.groups()
      if (files := self.files_of(name, revision or "main")) is not None:
        paths = [{"rfilename": path} for path in files]
        about = {"id": name, "sha": commit_of(files), "private": False, "siblings": paths}
        self.answer({**about, "modelId": name, "tags": [], "downloads": 0})
    elif match := re.fullmatch(r"/api/models/(\w+/\w+)/tree/([^/]+)", path):
      if (files := self.files_of(*match.groups())) is not None:
        self.answer([
          {"type": "file", "path": path, "size": len(x), "oid": digest(x)}
          for path, x in files.items()
        ])  # fmt: skip
    elif match := re.fullmatch(r"/(\w+/\w+)/resolve/([^/]+)/(.+)", path):
      *place, file = match.groups()
      if (files := self.files_of(*place)) is not None:
        if file in files:
          headers = {"ETag": f'"{digest(files[file])}"', "X-Repo-Commit": commit_of(files)}
          self.answer(files[file], headers=headers)
        else:
          self.fail(404, "EntryNotFound")
    else:
      self.fail(404, "")

  do_HEAD = do_GET

  def do_POST(self):
    path = self.note()
    body = self.rfile.read(int(self.headers["Content-Length"] or 0))
    if path == "/api/repos/create":
      wanted = json.loads(body)
      name = f"{wanted['organization']}/{wanted['name']}"
      self.server.repositories.setdefault(name, {"main": {}})
      self.answer({"url": f"{self.server.endpoint}/{name}", "id": name, "name": name})
    elif path == "/api/validate-yaml":
      self.answer({"errors": [], "warnings": []})
    elif re.fullmatch(r"/api/models/\w+/\w+/preupload/main", path):
      paths = [file["path"] for file in json.loads(body)["files"]]
      same = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
      self.answer({"files": [{"path": path, **same} for path in paths]})
    elif match := re.fullmatch(r"/api/models/(\w+/\w+)/commit/main", path):
      lines = [json.loads(line) for line in body.splitlines()]
      files = [line["value"] for line in lines if line["key"] == "file"]
      files = {file["path"]: base64.b64decode(file["content"]) for file in files}
      self.server.commit(match[1], files)
      sha = commit_of(self.server.repositories[match[1]]["main"])
      url = f"{self.server.endpoint}/{match[1]}/commit/{sha}"
      self.answer({"commitUrl": url, "commitOid": sha})
    else:
      self.fail(404, "")

  def note(self):
    path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
    self.server.asked.append(f"{self.command} {path}")
    return path

  def files_of(self, name, revision):
    """The files of a revision; None after an answer that there are none to be had."""
    if name in self.server.refuse:
      return self.fail(*self.server.refuse[name])
    revisions = self.server.repositories.get(name)
    if revisions is None:
      return self.fail(404, "RepoNotFound")
    if revision not in revisions:
      return self.fail(404, "RevisionNotFound")
    return revisions[revision]

  def answer(self, content, status=200, headers=()):
    if not isinstance(content, bytes):
      content = json.dumps(content).encode()
    self.send_response(status)
    for name, value in {"Content-Length": len(content), **dict(headers)}.items():
      self.send_header(name, str(value))
    self.end_headers()
    if self.command != "HEAD":
      self.wfile.write(content)

  def fail(self, status, code):
    self.answer({"error": code}, status, {"X-Error-Code": code} if code else {})

  def log_message(self, *_):
    pass
