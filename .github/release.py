#!/usr/bin/env python3
"""Makes of built binaries all that a release publishes: .github/release.py BINARIES OUT RELEASES

BINARIES has a folder for each target with the program in it, as `.github/build` leaves it; RELEASES is the URL below which
releases lie. OUT then holds

  *.tar.gz, SHA256SUMS   an archive for each target: binary, licence, manual page and completions; their checksums
  install.sh             which installs this very release
  sbom.cdx.json          CycloneDX: every package that is in a binary
  wheels/                for `pip install` and `uvx`: a wheel for each target, the binary as its script
  image/                 the context of .github/Containerfile: a binary for each architecture, and CA roots

The same binaries give the same bytes: times are the commit's, nothing depends on the machine. One of the binaries has to run here.
"""
import base64
import gzip
import hashlib
import io
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tarfile
import tomllib
import uuid
import zipfile

root = pathlib.Path(__file__).resolve().parent.parent
manifest = tomllib.loads((root / "Cargo.toml").read_text())["package"]
NAME, VERSION = manifest["name"], manifest["version"]
# what pip calls the machines that a target runs on, and what containers do
WHEELS = {
    "x86_64-unknown-linux-musl": "manylinux_2_17_x86_64.manylinux2014_x86_64.musllinux_1_1_x86_64",
    "aarch64-unknown-linux-musl": "manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64",
    "x86_64-apple-darwin": "macosx_10_12_x86_64",
    "aarch64-apple-darwin": "macosx_11_0_arm64",
    "x86_64-pc-windows-gnu": "win_amd64",
}
IMAGES = {"x86_64-unknown-linux-musl": "amd64", "aarch64-unknown-linux-musl": "arm64"}
ROOTS = ["/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem"]


def commit_time():
    """Seconds since 1970."""
    if "SOURCE_DATE_EPOCH" in os.environ:
        return int(os.environ["SOURCE_DATE_EPOCH"])
    return int(subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=root, check=True, stdout=subprocess.PIPE).stdout)


def said(binary, *args):
    return subprocess.run([binary, *args], check=True, stdout=subprocess.PIPE).stdout


def archive(out, target, files):
    """Names, modes and bytes as a tar.gz."""
    tarred = io.BytesIO()
    with tarfile.open(fileobj=tarred, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, (mode, data) in sorted(files.items()):
            info = tarfile.TarInfo(f"{NAME}-{target}/{name}")
            info.size, info.mode, info.mtime = len(data), mode, commit_time()
            tar.addfile(info, io.BytesIO(data))
    path = out / f"{NAME}-{target}.tar.gz"
    path.write_bytes(gzip.compress(tarred.getvalue(), 9, mtime=0))
    return path


def wheel(out, target, name, binary):
    """The binary `name` as the script of a Python package."""
    module, tag = NAME.replace("-", "_"), f"py3-none-{WHEELS[target]}"
    info = f"{module}-{VERSION}.dist-info"
    tags = "".join(f"Tag: py3-none-{one}\n" for one in WHEELS[target].split("."))
    metadata = f"Metadata-Version: 2.4\nName: {NAME}\nVersion: {VERSION}\nSummary: {manifest['description']}\n"
    metadata += f"License-Expression: {manifest['license']}\nLicense-File: LICENSE\nDescription-Content-Type: text/markdown\n\n"
    files = {
        f"{module}-{VERSION}.data/scripts/{name}": (0o755, binary),
        f"{info}/METADATA": (0o644, metadata.encode() + (root / "README.md").read_bytes()),
        f"{info}/WHEEL": (0o644, f"Wheel-Version: 1.0\nGenerator: {NAME}\nRoot-Is-Purelib: false\n{tags}".encode()),
        f"{info}/licenses/LICENSE": (0o644, (root / "LICENSE").read_bytes()),
    }
    record = ""
    for name, (_, data) in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        record += f"{name},sha256={digest},{len(data)}\n"
    files[f"{info}/RECORD"] = (0o644, f"{record}{info}/RECORD,,\n".encode())
    with zipfile.ZipFile(out / f"{module}-{VERSION}-{tag}.whl", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for name, (mode, data) in files.items():
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.external_attr, entry.compress_type = (0o100000 | mode) << 16, zipfile.ZIP_DEFLATED
            packed.writestr(entry, data)


def sbom(licenses):
    """What `version --licenses` lists, with the checksums of Cargo.lock."""
    locked = {(p["name"], p["version"]): p.get("checksum") for p in tomllib.loads((root / "Cargo.lock").read_text())["package"]}
    components = []
    for line in licenses.split("\n\n")[1].splitlines():
        package, licence = line.strip().split("  ")
        name, _, version = package.partition(" ")
        component = {"type": "library", "name": name, "licenses": [{"expression": licence.replace("/", " OR ")}]}
        if version:
            purl = f"pkg:cargo/{name}@{version}"
            checksum = [{"alg": "SHA-256", "content": locked[name, version]}]
            component |= {"version": version, "purl": purl, "bom-ref": purl, "hashes": checksum}
        components.append(component)
    itself = {"type": "application", "name": NAME, "version": VERSION, "bom-ref": f"pkg:cargo/{NAME}@{VERSION}"}
    itself["licenses"] = [{"expression": manifest["license"]}]
    document = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "metadata": {"component": itself}}
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(components))}"
    return json.dumps(document | {"components": components}, indent=1) + "\n"


def main(binaries, out, releases):
    binaries, out = pathlib.Path(binaries), pathlib.Path(out)
    found = {path.parent.name: path for path in sorted(binaries.glob("*/*")) if path.name in (NAME, f"{NAME}.exe")}
    machine = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}[platform.machine().lower()]
    here = f"{machine}-apple-darwin" if sys.platform == "darwin" else f"{machine}-unknown-linux-musl"
    if here not in found:
        sys.exit(f"release: {binaries} has no {here}/{NAME}, which is to write the manual page")
    for path in found.values():
        path.chmod(0o755)  # artifacts of a workflow lose it
    if f"{NAME} {VERSION} ({here})\n" != said(found[here], "version").decode():
        sys.exit(f"release: {found[here]} is not {VERSION}")
    for folder in ["wheels", "image"]:
        (out / folder).mkdir(parents=True, exist_ok=True)
    pages = {f"{NAME}.1": "man", f"completions/{NAME}.bash": "bash", f"completions/_{NAME}": "zsh", f"completions/{NAME}.fish": "fish"}
    common = {name: (0o644, said(found[here], "help", page)) for name, page in pages.items()}
    common |= {name: (0o644, (root / name).read_bytes()) for name in ["LICENSE", "README.md"]}
    sums = ""
    for target, path in found.items():
        made = archive(out, target, common | {path.name: (0o755, path.read_bytes())})
        sums += f"{hashlib.sha256(made.read_bytes()).hexdigest()}  {made.name}\n"
        wheel(out / "wheels", target, path.name, path.read_bytes())
        if target in IMAGES:
            (out / "image" / IMAGES[target]).mkdir(exist_ok=True)
            shutil.copy(path, out / "image" / IMAGES[target] / NAME)
    (out / "SHA256SUMS").write_text(sums)
    installer = (root / ".github/install.sh").read_text()
    for unset, ours in [("{GO_CACHE_PLUGIN_URL:-}", releases), ("{GO_CACHE_PLUGIN_VERSION:-latest}", VERSION)]:
        if unset not in installer:
            sys.exit(f"release: install.sh has no ${unset}")
        installer = installer.replace(unset, f"{unset.split(':-')[0]}:-{ours}}}")
    (out / "install.sh").write_text(installer)
    (out / "sbom.cdx.json").write_text(sbom(said(found[here], "version", "--licenses").decode()))
    shutil.copy(next(path for path in ROOTS if os.path.exists(path)), out / "image/ca-certificates.crt")


if len(sys.argv) != 4:
    sys.exit(__doc__)
main(*sys.argv[1:])
