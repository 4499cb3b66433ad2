"""Automatic interpretation (paper Sec. 3, App. A): explain a feature, predict its activations, correlate.

fragments.py    which windows are explained and scored, activations on a scale of 0 to 10
score.py        correlation with its interval
prompts.py      every text a language model is sent
client.py       the service; the only user of the openai package
answers.py      answers kept on disk as they come
explain.py      fragments -> one sentence
simulate.py     sentence -> predicted activations, in three ways
detection.py    detection and fuzzing
interview.py    all of it for one feature
cost.py         requests, tokens and price before anything is spent
"""
