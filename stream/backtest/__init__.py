"""What other rules, or another model, would have told: the radar's own code over a recorded stretch, in this process.

Nothing here decides anything about alerts: texts, click lanes and fusion are the ones that run live, fed in memory
instead of by Kafka (:mod:`stream.backtest.lab`), once up to ``signals`` and then once per set of rules. So a backtest
gives, alert by alert, what a replay with these rules gives, in a small part of the time.

| file | |
|---|---|
| ``lab.py`` | events → signals → alerts in memory |
| ``scores.py`` | what a model has read once it need not read again |
| ``diff.py`` | which alerts are added, removed, moved, earlier or later; pure |
| ``curve.py`` | alerts per day against delay as the budget moves; pure |
| ``report.py`` | the same in JSON, words, Markdown and HTML; pure |
| ``run.py`` | ``radar backtest`` |
"""
