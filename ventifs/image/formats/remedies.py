"""Remedies: what to do about an image that is refused, in one table for all messages.

A remedy is text with commands in it, between single quotes; `{path}` in them is the file that was
refused. Tests run each command on a real image. Commands name formats explicitly, so that no tool
detects a format by what a guest wrote. Where a tool opens other files that an image names, the
remedy warns of it. Where no free tool exists, a remedy has no command.
"""

import re
from enum import Enum

from ventifs.image.formats.advice import command_line

_COMMAND = re.compile(r"'([^']*\{path\}[^']*)'")
_LISTED = re.compile(r"(?<==)\{path\}")  # in a list of keys and values, separated by commas
# For formats with backing or data files, whose names the image decides.
_IF_TRUSTED = "if you trust it with the files of this host, every one of which it can name"


class Remedy(Enum):
    """A remedy; see `line`."""

    # For any file.
    RAW = "'--format raw' archives the file as it stands"
    # For formats that QEMU reads, and this package does not.
    QCOW = (
        f"convert it first, {_IF_TRUSTED}: 'qemu-img convert -f qcow -O qcow2 {{path}} NEW.qcow2'"
    )
    QED = f"convert it first, {_IF_TRUSTED}: 'qemu-img convert -f qed -O qcow2 {{path}} NEW.qcow2'"
    VDI = "convert it first: 'qemu-img convert -f vdi -O qcow2 {path} NEW.qcow2'"
    PARALLELS = "convert it first: 'qemu-img convert -f parallels -O qcow2 {path} NEW.qcow2'"
    BOCHS = "convert it first: 'qemu-img convert -f bochs -O qcow2 {path} NEW.qcow2'"
    CLOOP = "convert it first: 'qemu-img convert -f cloop -O qcow2 {path} NEW.qcow2'"
    DMG = "convert it first: 'qemu-img convert -f dmg -O qcow2 {path} NEW.qcow2'"
    # For other formats.
    UML_COW = (
        f"merge it with its backing file first, {_IF_TRUSTED}: "
        "'uml_moo {path} NEW.img' (uml-utilities)"
    )
    EWF = "export it first: 'ewfexport -u -f raw -t NEW {path}' makes NEW.raw (ewf-tools)"
    WIM = (
        "archive the directory into which 'wimlib-imagex apply {path} 1 DIR' extracts the files of "
        "its first image (wimtools)"
    )
    LUKS = "archive the device that 'cryptsetup open --type luks {path} NAME' makes"
    # For qcow2.
    CHECK_QCOW2 = (
        "'qemu-img check -f qcow2 {path}' says more, '--format raw' archives the file as it stands"
    )
    DECRYPT_QCOW2 = (
        f"decrypt it first, {_IF_TRUSTED}: "
        "'qemu-img convert --object secret,id=key,file=KEY --image-opts -O qcow2 "
        "driver=qcow2,encrypt.key-secret=key,file.filename={path} NEW.qcow2', "
        "where the file KEY has the passphrase"
    )
    NEWER_QCOW2 = "have the program that wrote it write it as qcow2 version 3, or raw"
    FLATTEN_QCOW2 = (
        f"put all of its layers into one image, {_IF_TRUSTED}: "
        "'qemu-img convert -f qcow2 -O qcow2 {path} NEW.qcow2'"
    )
    # For VMDK, VHD and VHDX.
    VMDK_PARENT = (
        f"put both into one image, {_IF_TRUSTED}: "
        "'qemu-img convert -f vmdk -O qcow2 {path} NEW.qcow2'"
    )
    VMDK_EXTENT = "archive the .vmdk file that names it instead"
    VMDK_OTHER = "copy its disk to a raw or qcow2 image with the programs of its hypervisor"
    ENCRYPTED_VMDK = "decrypt it first with the programs of its hypervisor"
    VHD_PARENT = (
        "merge it into its parent first with the programs of its hypervisor; "
        "qemu-img would leave out the parent, without a word"
    )
    VHDX_PARENT = (
        "merge it into its parent first with the programs of its hypervisor; qemu-img cannot"
    )
    VHDX_LOG = "replay it first: 'qemu-img check -r all -f vhdx {path}'"

    def line(self, path: str) -> str:
        """The remedy for a file, by its path or its label; for the end of a message."""
        # A label escapes unprintable characters by backslashes; it is not the file's name then.
        if "\\" in path:
            return self.value.replace("{path}", "FILE")
        if path.startswith("-") or ":" in path.partition("/")[0]:  # an option, or a protocol
            path = f"./{path}"
        listed = command_line(path.replace(",", ",,"))
        return _LISTED.sub(lambda _: listed, self.value).replace("{path}", command_line(path))

    @property
    def commands(self) -> list[str]:
        """Its commands, with `{path}` in them."""
        return _COMMAND.findall(self.value)


# By the name that `probe` has for a format that is not read.
OF_KINDS = {
    "a qcow (version 1) image": Remedy.QCOW,
    "a QED image": Remedy.QED,
    "a Parallels image": Remedy.PARALLELS,
    "a Bochs image": Remedy.BOCHS,
    "a cloop image": Remedy.CLOOP,
    "a User-Mode Linux COW image": Remedy.UML_COW,
    "a WIM archive": Remedy.WIM,
    "an EWF (E01) image": Remedy.EWF,
    "a VirtualBox VDI image": Remedy.VDI,
    "an Apple disk image (DMG)": Remedy.DMG,
}
