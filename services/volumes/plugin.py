"""The volume driver behind the protocol: create, mount, count, unmount, remove (spec 09 §14.3 to §14.5).

A volume is mounted with its first mount id and unmounted with its last. Two kinds of locks: one for the table and its
file, held for moments only, and one per volume, held while a command runs. So a mount that hangs blocks its own volume
and nothing else.

Where the reference is known to go wrong this differs: an unmount that failed is tried again by the next request (the
reference forgot the id and answered success); after a reboot the recorded mounts are compared with the mount table
(the reference took them for real and the task wrote into the bare directory); a name that would leave the directory of
the volumes is refused.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock

from services.volumes import mounts
from services.volumes.errors import PluginError, StateError
from services.volumes.state import TYPES, StateFile, Volume, timestamp

DIRECTORY = Path("/var/lib/ecs/volumes")


class Plugin:
    """All volumes of this host. Every method raises PluginError with the text for Docker."""

    def __init__(
        self,
        state: StateFile,
        log: logging.Logger,
        mounter: mounts.Mounter | None = None,
        directory: Path = DIRECTORY,
        is_mounted: Callable[[str], bool] = mounts.is_mounted,
    ) -> None:
        self._state = state
        self._log = log
        self._mounter = mounter or mounts.Mounter()
        self._directory = directory
        self._is_mounted = is_mounted
        self._table = Lock()
        self._volumes: dict[str, Volume] = {}

    def load(self) -> None:
        """Take over the volumes of an earlier incarnation. Raises StateError."""
        stale = self._state.written_before_boot()
        for volume in self._state.load():
            volume.mounted = True  # a later removal unmounts, which tolerates that nothing is mounted
            if stale and volume.mounts and not self._is_mounted(volume.path):
                self._log.warning("volume %s was mounted before the reboot and is not now", volume.name)
                volume.mounts.clear()
                volume.mounted = False
            self._volumes[volume.name] = volume

    # -- requests --------------------------------------------------------------------------------------------------

    def create(self, name: str, options: Mapping[str, str]) -> None:
        """Record a volume; nothing is mounted yet. A state file that cannot be written is only logged."""
        kind, target = options.get("type", ""), options.get("target", "")
        with self._table:
            if name in self._volumes:
                raise PluginError(f"volume {name} already exists")
            if kind not in TYPES:
                raise PluginError(f"volume {kind} type not supported")
            path = target or self._make_directory(name)
            self._volumes[name] = Volume(name, kind, path, dict(options), timestamp())
            self._save_or_log()
        self._log.info("created volume %s (%s) at %s", name, kind or "efs", path)

    def _make_directory(self, name: str) -> str:
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise PluginError(f"cannot create mount point: volume name {name!r} is no file name")
        path = self._directory / name
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise PluginError(f"cannot create mount point: {error}") from error
        return str(path)

    def mount(self, name: str, mount_id: str) -> str:
        """Mount the volume unless it is, count this id, and return the path."""
        volume = self._find(name, mount_id)
        with volume.lock:
            self._still_there(volume)
            if not volume.mounts:
                try:
                    self._mounter.mount(volume.options, volume.path)
                except PluginError as error:
                    self._log.error("volume %s: %s", name, error)
                    raise PluginError(f"failed to mount volume {name}: {error}") from error
                volume.mounted = True
            try:
                with self._table:
                    volume.mounts[mount_id] = volume.mounts.get(mount_id, 0) + 1
                    self._save()
            except StateError as error:
                self._undo_mount(volume, mount_id)
                raise PluginError(f"mount failed due to an error while saving state: {error}") from error
        self._log.info("mounted volume %s at %s for %s", name, volume.path, mount_id)
        return volume.path

    def _undo_mount(self, volume: Volume, mount_id: str) -> None:
        """A mount that is on no record would never be undone after a restart."""
        with self._table:
            self._count_down(volume, mount_id)
        if not volume.mounts:
            try:
                self._mounter.unmount(volume.path)
                volume.mounted = False
            except PluginError as error:
                self._log.error("volume %s: %s", volume.name, error)
        with self._table:
            self._save_or_log()

    def unmount(self, name: str, mount_id: str) -> None:
        """Count this id down; with the last one the volume is unmounted. An unknown id is nothing to do."""
        volume = self._find(name, mount_id)
        with volume.lock:
            self._still_there(volume)
            if mount_id not in volume.mounts:
                self._log.warning("volume %s is not mounted for %s: nothing to unmount", name, mount_id)
                return
            if volume.mounts == {mount_id: 1}:
                self._unmount_last(volume)
            with self._table:
                self._count_down(volume, mount_id)
                self._save_or_log()
        self._log.info("unmounted volume %s for %s", name, mount_id)

    def _unmount_last(self, volume: Volume) -> None:
        try:
            self._mounter.unmount(volume.path)
        except PluginError as error:
            self._log.error("volume %s: %s", volume.name, error)
            raise PluginError(f"failed to unmount volume {volume.name}: {error}") from error
        volume.mounted = False

    def remove(self, name: str) -> None:
        """Forget the volume, unmounted if need be, and its directory if that is empty."""
        volume = self._get(name)
        with volume.lock:
            self._still_there(volume)
            if volume.mounted:
                self._mounter.unmount(volume.path)
                volume.mounted = False
            with self._table:
                del self._volumes[name]
                try:
                    os.rmdir(volume.path)
                except OSError as error:
                    self._log.error("the directory of volume %s stays: %s", name, error)
                self._save_or_log()
        self._log.info("removed volume %s", name)

    def get(self, name: str) -> Volume:
        """The volume, whether or not anything is mounted."""
        return self._get(name)

    def names(self) -> list[str]:
        """Every volume's name."""
        with self._table:
            return list(self._volumes)

    # -- the table -------------------------------------------------------------------------------------------------

    def _find(self, name: str, mount_id: str) -> Volume:
        if not name:
            raise PluginError("no volume in the request")
        if not mount_id:
            raise PluginError("no mount ID in the request")
        return self._get(name)

    def _get(self, name: str) -> Volume:
        with self._table:
            volume = self._volumes.get(name)
        if volume is None:
            raise PluginError(f"volume {name} not found")
        return volume

    def _still_there(self, volume: Volume) -> None:
        """Another request may have removed it while this one waited for its lock."""
        if self._get(volume.name) is not volume:
            raise PluginError(f"volume {volume.name} not found")

    @staticmethod
    def _count_down(volume: Volume, mount_id: str) -> None:
        volume.mounts[mount_id] -= 1
        if volume.mounts[mount_id] <= 0:
            del volume.mounts[mount_id]

    def _save(self) -> None:
        self._state.save(self._volumes.values())

    def _save_or_log(self) -> None:
        try:
            self._save()
        except StateError as error:
            self._log.error("the state of the volumes is not saved: %s", error)
