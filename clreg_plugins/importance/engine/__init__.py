"""How the importance of parameters is computed from data.

In the order of a pass: :mod:`.data` reads batches (:mod:`.batch`); :mod:`.environment`, :mod:`.snapshot` and
:mod:`.modes` see to it that the model is measured as it is and left as it was; :mod:`.forward_pass` runs it;
:mod:`.cotangents` says what to pull back; :mod:`.layer_path` turns gradients at layers' outputs into moments by
:mod:`.layer_rules`, from what :mod:`.recording` recorded, :mod:`.routing` noticed and :mod:`.verification` checked;
:mod:`.general_path` does all other parameters. :mod:`.pass_over_data` puts these together in pieces that :mod:`.memory`
sizes, in :mod:`.totals`, and :mod:`.moments` is the one formula that all of it computes.
"""
