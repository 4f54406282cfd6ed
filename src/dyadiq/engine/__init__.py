"""The CPU engine: compiles integer programs and runs them natively, with the reference's integers."""

from dyadiq.engine.compile import compile_program
from dyadiq.engine.file import write_engine_file
from dyadiq.engine.library import library_folder
from dyadiq.engine.limits import find_uncompilable
from dyadiq.engine.measure import MeasuredAlgorithms, compile_measured, measure_algorithms, time_plans
from dyadiq.engine.plan import EnginePlan
from dyadiq.engine.runtime import ISAS, EngineProgram, StepProfile, available_isas, chosen_isa

__all__ = [
    "ISAS",
    "EnginePlan",
    "EngineProgram",
    "MeasuredAlgorithms",
    "StepProfile",
    "available_isas",
    "chosen_isa",
    "compile_measured",
    "compile_program",
    "find_uncompilable",
    "library_folder",
    "measure_algorithms",
    "time_plans",
    "write_engine_file",
]
