"""The machine around a run.

- `signals`: signals that ask a run to end; a training writes a checkpoint first.
- `output`: what code prints while stdout belongs to the output of a command.
- `errors`: errors of the system (a full disk, too little memory) as errors of topwork.

Processes of one run lie in `topwork.process`, files that are written whole in `topwork.files`.
"""
