"""The model registry: what a study recommends, as versions with their evidence and aliases for what they are recommended.

from slim import registry

done = registry.register(registry.Question(study=run_id, objectives=("balanced",)))
done.versions[0].name, done.versions[0].version, done.refused
"""

from slim.registry.candidates import default_name
from slim.registry.registering import Question, register
from slim.registry.words import CARD, VERSION, Refused, Registered, Registration

__all__ = ["CARD", "VERSION", "Question", "Refused", "Registered", "Registration", "default_name", "register"]
