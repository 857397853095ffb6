"""Rebuild the part of D3 that the study pages use: `python bench/generate/d3_bundle.py`. Needs npm.

It installs exact versions into a temporary folder, bundles entry.js with esbuild, and writes d3.min.js, LICENSE and
bundle.json (versions and the sha256 of the bundle) next to it. The result is committed, so that nobody else needs npm.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "minilm_np" / "study" / "assets" / "d3"
VERSIONS = {  # of the modules in entry.js, and of those that they import
    "d3-array": "3.2.4",
    "d3-axis": "3.0.0",
    "d3-color": "3.1.1",
    "d3-format": "3.1.3",
    "d3-interpolate": "3.0.2",
    "d3-path": "3.1.1",
    "d3-scale": "4.0.2",
    "d3-selection": "3.0.0",
    "d3-shape": "3.2.0",
    "d3-time": "3.1.1",
    "d3-time-format": "4.1.1",
    "internmap": "2.0.3",
    "esbuild": "0.28.2",
}


def main() -> None:
    """Write the three files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(FOLDER / "entry.js", folder)
        (folder / "package.json").write_text(json.dumps({"private": True, "dependencies": VERSIONS}))
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--silent"], cwd=folder, check=True)
        options = ["--bundle", "--minify", "--format=iife", "--global-name=d3", "--legal-comments=none"]
        command = ["npx", "esbuild", "entry.js", *options, "--outfile=d3.min.js"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        bundle = (folder / "d3.min.js").read_bytes()
        license_text = (folder / "node_modules" / "d3-scale" / "LICENSE").read_bytes()
        lock = json.loads((folder / "package-lock.json").read_text())
    modules = {
        path.removeprefix("node_modules/"): package["version"]
        for path, package in lock["packages"].items()
        if path.startswith("node_modules/") and "esbuild" not in path
    }
    record = {
        "license": "ISC",
        "modules": modules,
        "esbuild": VERSIONS["esbuild"],
        "sha256": hashlib.sha256(bundle).hexdigest(),
    }
    (FOLDER / "d3.min.js").write_bytes(bundle)
    (FOLDER / "LICENSE").write_bytes(license_text)
    (FOLDER / "bundle.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
