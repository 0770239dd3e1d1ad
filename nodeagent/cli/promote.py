"""`nodeagent promote` and `nodeagent rollback`."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, Field

from nodeagent import names
from nodeagent.config import Settings
from nodeagent.errors import NodeAgentError
from nodeagent.keys import SecretKey
from nodeagent.names import Reason

Percent = Annotated[int, Field(ge=0, le=100)]


class Promote(Settings):
    """Sign a channel record for a release and write it into the pins.

    Without --release only the rollout of the standing record is moved to --percent.
    """

    pins: Path = Field(Path("pins.json"), description="the pins file to write")
    release: str | None = Field(None, description="digest of the release, or its first digits")
    cache: str | None = Field(None, description="the cache (directory or address) that holds it")
    caches: list[str] = Field(["main"], description="names of the caches that agents shall use")
    fleet: str = Field("default", description="the fleet to sign for")
    channel: str = Field(names.DEFAULT_CHANNEL, description="the channel to sign for")
    key: Path | None = Field(None, description="secret release key, in Nix's format")
    percent: Percent | None = Field(
        None, description="share of the channel's nodes that take it (a new release: 100)"
    )
    expires_days: float = Field(
        30.0, gt=0, le=3650, description="nodes accept it for the first time until"
    )
    not_before: AwareDatetime | None = Field(None, description="nodes do not accept it before")
    reason: str = Field("", description="why, for whoever looks later")

    def cli_cmd(self) -> None:
        """Promote, and say what stands now."""
        from nodeagent import promote

        if self.release is None:
            self._move()
            return
        promotion = promote.Promotion(
            manifest=self._manifest(self.release),
            fleet=self.fleet,
            channel=self.channel,
            caches=self.caches,
            expires_in=timedelta(days=self.expires_days),
            percent=promote.WHOLE if self.percent is None else self.percent,
            not_before=self.not_before,
            reason=self.reason,
        )
        record = promote.promote(self.pins, promotion, self._key(), datetime.now(UTC))
        print(f"{record.release} serial {record.serial} in {self.pins}")

    def _move(self) -> None:
        """Move the rollout of what stands; nothing is signed."""
        from nodeagent import promote

        if self.percent is None or self.key or self.not_before or self.reason:
            raise NodeAgentError(
                Reason.SETTING_INVALID,
                "there is no --release: give one to sign, or --percent alone to move the rollout",
            )
        promote.set_percent(self.pins, self.channel, self.percent)
        print(f"channel {self.channel}: {self.percent} % of the nodes")

    def _manifest(self, name: str) -> bytes:
        from nodeagent.bake.find import find

        return find(name, self.cache).manifest

    def _key(self) -> SecretKey:
        from nodeagent import keys

        if self.key is None:
            raise NodeAgentError(Reason.SETTING_INVALID, "a release is signed: give --key FILE")
        return keys.load_secret(self.key)


class Rollback(Settings):
    """Send every node of a channel back to the previous record; needs no key."""

    pins: Path = Field(Path("pins.json"), description="the pins file to write")
    channel: str = Field(names.DEFAULT_CHANNEL, description="the channel")

    def cli_cmd(self) -> None:
        """Set the rollout to 0 %."""
        from nodeagent import promote

        promote.set_percent(self.pins, self.channel, 0)
        print(f"channel {self.channel}: back to the previous record")
