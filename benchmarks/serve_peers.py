"""The servers that `visus serve` is measured against by benchmarks/serve.py: LitServe, and FastAPI as its pages show
it, both with timm's model in eager mode and timm's own preprocessing.

    python benchmarks/serve_peers.py litserve --model resnet50 --port 8101 --workers 2 --threads 1
    python benchmarks/serve_peers.py fastapi --model mobilenetv3_large_100 --port 8102 --workers 1 --threads 2

POST /predict with a multipart field `image` answers {"top": [{"label", "prob"}]} of the five likeliest classes. Both
follow their documentation: LitServe's setup / decode_request / predict / encode_response with worker processes
(`workers_per_device`), and FastAPI's plain `def` path function, which runs in a thread of its pool, under
`uvicorn --workers`. Weights are random: they change no time.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tools.peers import load_peer

try:
    from litserve import LitAPI
except ImportError:  # the other peer runs without it
    LitAPI = object

MODEL, THREADS, BATCH = "PEER_MODEL", "PEER_THREADS", "PEER_BATCH"  # set before worker processes are started


class Classifier:
    """Bytes of an image file -> the five likeliest classes, by timm's documented steps."""

    def __init__(self) -> None:
        torch.set_num_threads(int(os.environ[THREADS]))
        torch.manual_seed(0)
        timm = load_peer("timm")
        self.model = timm.create_model(os.environ[MODEL], pretrained=False).eval()
        data = timm.data.resolve_model_data_config(self.model)
        self.transform = timm.data.create_transform(**data, is_training=False)

    def decoded(self, file: Any) -> torch.Tensor:
        return self.transform(Image.open(file).convert("RGB"))

    @torch.inference_mode()
    def probs(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images).softmax(1)

    @staticmethod
    def said(probs: torch.Tensor) -> dict[str, Any]:
        best = probs.topk(5)
        return {"top": [{"label": str(label), "prob": prob}
                        for label, prob in zip(best.indices.tolist(), best.values.tolist(), strict=True)]}


class Api(LitAPI):
    """At the top of the module, where LitServe's worker processes find it."""

    def setup(self, device: str) -> None:
        del device
        self.classifier = Classifier()

    def decode_request(self, request) -> torch.Tensor:  # type: ignore[no-untyped-def]  # a type would be taken for the body's
        return self.classifier.decoded(io.BytesIO(request["image"].file.read()))

    def predict(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier.probs(images if images.ndim == 4 else images[None])

    def encode_response(self, output: torch.Tensor) -> dict[str, Any]:
        return self.classifier.said(output if output.ndim == 1 else output[0])


def fastapi_app() -> Any:
    """What uvicorn asks each of its workers to build."""
    from fastapi import FastAPI, UploadFile

    app = FastAPI()
    classifier = Classifier()

    def predict(image: UploadFile) -> dict[str, Any]:
        tensor = classifier.decoded(io.BytesIO(image.file.read()))
        return classifier.said(classifier.probs(tensor[None])[0])

    predict.__annotations__["image"] = UploadFile
    app.post("/predict", response_model=None)(predict)

    @app.get("/health")
    def health() -> str:
        return "ok"

    return app


def run_fastapi(port: int, workers: int) -> None:
    import uvicorn

    uvicorn.run("serve_peers:fastapi_app", factory=True, app_dir=os.path.dirname(os.path.abspath(__file__)),
                host="127.0.0.1", port=port, workers=workers, access_log=False, log_level="warning",
                timeout_worker_healthcheck=120)


def run_litserve(port: int, workers: int) -> None:
    import litserve

    batch = int(os.environ[BATCH])
    batching = {"max_batch_size": batch, "batch_timeout": 0.005} if batch > 1 else {}
    server = litserve.LitServer(Api(**batching), accelerator="cpu", workers_per_device=workers, timeout=60)
    server.run(host="127.0.0.1", port=port, num_api_servers=1, generate_client_file=False, log_level="warning")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=["litserve", "fastapi"])
    parser.add_argument("--model", default="resnet50", help="a name of timm's")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of torch in each worker")
    parser.add_argument("--batch", type=int, default=1, help="LitServe's max_batch_size")
    arguments = parser.parse_args()
    os.environ |= {MODEL: arguments.model, THREADS: str(arguments.threads), BATCH: str(arguments.batch),
                   "OMP_NUM_THREADS": str(arguments.threads)}
    {"litserve": run_litserve, "fastapi": run_fastapi}[arguments.peer](arguments.port, arguments.workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
