"""What a compiled rule asks of a runtime. A plan knows no framework; both backends follow the same one."""

from ruledsl_torch.plan import CLOCK, VISITS, Call, Plan, evaluate

__all__ = ["CLOCK", "VISITS", "Call", "Plan", "evaluate"]
