"""`spice-select push`: a finished run as a dataset on the hub."""

import click

EPILOG = """\b
Examples:
  spice-select push chosen me/chosen                 a new private dataset
  spice-select push chosen me/chosen --overwrite     in place of an earlier push
"""


@click.command("push", epilog=EPILOG)
@click.argument("directory", metavar="DIR")
@click.argument("name", metavar="OWNER/NAME")
@click.option("--public", is_flag=True, help="Let everyone see the dataset.  [a new repository is private]")
@click.option("--overwrite", is_flag=True, help="Replace the files of a repository that holds some, in a new commit.")
def push_command(directory: str, name: str, public: bool, overwrite: bool) -> None:
    """Upload the rows that DIR's run chose to the hub, as a dataset with a card.

    Uploaded are train.parquet and eval.parquet (chats), selected.jsonl (the rows as they were), scores.parquet (ids and
    scores of all rows of the pool) and README.md, which names method, budget, certificate or coverage, and the sources.
    The licences of the sources hold; the card states none of its own. A token comes from `hf auth login` or HF_TOKEN.
    """
    from spice_select.api.push import push

    click.echo(push(directory, name, public=public, overwrite=overwrite))
