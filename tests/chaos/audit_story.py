"""A story of the audit: a control plane dies while it seals, and what is sealed then is what was written."""

from tests.chaos.stories import Story
from tests.support.audits import findings
from tests.support.control_plane import until


class Sealed(Story):
    """Every entry ends up in one leaf, under a checkpoint that lies in the replica's own file."""

    async def _judge(self) -> list[str]:
        await until(self._all_sealed)
        found = await super()._judge()
        state = self._directory / "state"
        wrong = await findings(self._connect, [state / "audit-checkpoints.jsonl"], [state / "audit-key.pub"])
        return found + [f"the audit: leaf {finding.index}: {finding.what}" for finding in wrong]

    async def _all_sealed(self) -> bool:
        """Whether no entry is without a leaf, and the newest checkpoint has left the database."""
        left = (
            "SELECT count(*) FROM certaudit a WHERE NOT EXISTS (SELECT FROM auditleaf WHERE event_id = a.id)"
        )
        newest = str(await self._fetch("SELECT note FROM auditcheckpoint ORDER BY tree_size DESC LIMIT 1"))
        kept = (self._directory / "state" / "audit-checkpoints.jsonl").read_text()
        return await self._fetch(left) == 0 and newest.split("\n")[2] in kept
