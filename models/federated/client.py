"""A party's side of federated training: a Flower ClientApp over the rows that it alone holds.

It answers two questions, the moments of its rows and one round of local training, and sends nothing else. It keeps no
state between rounds, so a party that restarts in mid-run goes on as if it had not. Its random choices follow from the
contract's seed, its own name and the round; the coordinator cannot choose them.
"""

from typing import cast

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from models.families.base import Federated, Float32Matrix, Labels, Moments
from models.federated import records
from models.seeds import part_number


def party_app(family: Federated, X: Float32Matrix, y: Labels, *, party: str, seed: bytes) -> ClientApp:
    """The ClientApp of one party.

    Args:
        family: what is trained.
        X: float32 (n, d), the party's training features.
        y: (n,) labels.
        party: its name.
        seed: the run's seed.
    """
    app = ClientApp()

    @app.query("moments")
    def moments(message: Message, context: Context) -> Message:  # noqa: ARG001 - Flower's signature
        mine = family.moments(X)
        return Message(records.reply(records.moments_record(mine), mine.rows), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:  # noqa: ARG001 - Flower's signature
        asked = message.content
        config = asked.config_records[records.CONFIG]
        number, epochs = cast("int", config[records.ROUND]), cast("int", config[records.EPOCHS])
        sums, squares = asked.array_records[records.MOMENTS].to_numpy_ndarrays()
        joint = Moments(cast("int", asked.metric_records[records.METRICS][records.ROWS]), sums, squares)
        parameters = asked.array_records[records.ARRAYS].to_numpy_ndarrays()
        local_seed = part_number(seed, "local", party, number)
        update = family.local_fit(parameters, joint, X, y, epochs=epochs, seed=local_seed)
        return Message(records.reply(records.array_record(update), len(y)), reply_to=message)

    return app
