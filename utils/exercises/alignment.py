"""Checks of Lab 3's exercises: rewards from preferences, the parts of PPO."""

import random

import torch

from utils.exercises.feedback import call, close, compare, exercise, need, prediction, tensor


@exercise(1)
def check_bradley_terry(bradley_terry) -> None:
    chosen, rejected = torch.randn(9) + 0.5, torch.randn(9)
    answer, d = tensor(call(bradley_terry, chosen, rejected), usual="the mean over the pairs"), chosen - rejected
    p = 1 / (1 + torch.exp(-d))
    compare(answer, torch.log1p(torch.exp(-d)).mean(), {
        "chosen and rejected have changed places: this would train the model to prefer the worse one.":
            torch.log1p(torch.exp(d)).mean(),
        "the sign is wrong: a loss is minus the log of the probability.": p.log().mean(),
        "the logarithm is missing: the loss is -log of the probability.": -p.mean(),
        "the logarithm is missing, and a probability is to be raised.": (1 - p).mean(),
        "this is the sum: take the mean, so that the batch size does not matter.": torch.log1p(torch.exp(-d)).sum(),
        "take the mean of the pairs' losses, not the loss of the mean difference.": torch.log1p(torch.exp(-d.mean())),
        "the sigmoid is missing: the difference is not yet a probability.": -d.mean(),
    }, "this is not the mean of -log sigmoid(chosen - rejected).")
    far = torch.tensor([300.0, -300.0])
    need(close(call(bradley_terry, far, -far), 300.0),
         "a large difference gives log 0: use logsigmoid, which does both steps safely.")


@exercise(2)
def check_reward_by_name(reward_by_name) -> None:
    names = ["hate", "offensive", "neutral", "spam", "praise", "irony"]
    for wanted in random.sample([1, 2, 3], 3):  # neither first nor last, and 4th in the dictionary
        logits, order = 2 * torch.randn(7, 6), [i for i in range(6) if i != wanted]
        random.shuffle(names)
        order.insert(4, wanted)
        given = {i: names[i] for i in order}
        answer = tensor(call(reward_by_name, logits, given, names[wanted]), 7, usual="one reward for each text")
        log_p = logits.log_softmax(-1)
        odds = log_p - torch.log1p(-log_p.exp())
        compare(answer, odds[:, wanted], {
            "the label at a fixed position is read: look its index up in id2label by name.":
                [x[:, i] for x in (odds, logits) for i in range(6) if i not in (wanted, 4)],
            "that is the label's place in the dictionary: id2label's keys are the indices.": [odds[:, 4], logits[:, 4]],
            "whatever is most probable is rewarded, rude or not: look the index up by the label's name.":
                [x.max(1).values for x in (logits, log_p, log_p.exp(), odds)],
            "this is the logit alone, and its scale is arbitrary: subtract the log-sum-exp of the others.":
                logits[:, wanted],
            "this is the probability, which saturates at 1: the reward is its log-odds.": log_p[:, wanted].exp(),
            "this is log p, which is never above 0: the log-odds are log p - log(1 - p).": log_p[:, wanted],
            "the sign is wrong: the label that is wanted must earn more.": -odds[:, wanted],
        }, "these are not the log-odds of the label that was asked for.")


def masked(rows: int = 4, width: int = 6) -> torch.Tensor:
    """A mask [rows, width] of completions of several lengths, one of them as long as the batch."""
    lengths = torch.tensor([width, *(random.randint(2, width - 1) for _ in range(rows - 1))])
    return (torch.arange(width) < lengths[:, None]).float()


@exercise(3)
def check_token_rewards(token_rewards) -> None:
    mask, scores, beta = masked(), torch.randn(4) + 2, random.uniform(0.1, 0.5)
    logp, ref = -3 * torch.rand(4, 6), -3 * torch.rand(4, 6)
    usual = "the last real token stands at mask.sum(1) - 1: counting begins with 0"
    answer = tensor(call(token_rewards, scores, logp, ref, mask, beta, usual=usual), 4, 6)
    kl, last = (logp - ref) * mask, mask.sum(1).long() - 1
    on_last = torch.zeros(4, 6).scatter(1, last[:, None], 1.0)
    end = torch.zeros(4, 6)
    end[:, -1] = 1
    score = scores[:, None]
    compare(answer, score * on_last - beta * kl, {
        "the sign of the KL is wrong: what is more probable than under the reference must cost.":
            score * on_last + beta * kl,
        "what comes after the end token neither pays nor earns: multiply by the mask.":
            score * on_last - beta * (logp - ref),
        "the score belongs to the last real token, not to the last column.":
            [score * end - beta * kl, score * end - beta * (logp - ref)],
        "every token earns the score: only the last real one should.": score * mask - beta * kl,
        "the last token pays its KL as well: add the score there, do not overwrite.":
            score * on_last - beta * kl * (1 - on_last),
        "the coefficient beta is missing.": score * on_last - kl,
        "beta weighs the KL, not the score.": beta * (score * on_last - kl),
        "the score is missing.": -beta * kl,
        "the score stands one token too early: the last real token is at mask.sum(1) - 1.":
            score * on_last.roll(-1, 1) - beta * kl,
    }, "these are not the rewards: -beta (logp - ref_logp) on real tokens, and the score on the last of them.")


@exercise(4)
def check_advantages(advantages) -> None:
    mask, rewards, values = masked(), torch.randn(4, 6), torch.randn(4, 6)
    rewards, gamma, lam = rewards * mask, random.uniform(0.8, 0.9), random.uniform(0.5, 0.7)
    usual = "there is no token after the last: V and A are 0 there"
    answer = tensor(call(advantages, rewards, values, mask, gamma, lam, usual=usual), 4, 6)

    def direct(values, gamma=gamma, lam=lam, carry=None, following=1.0, here=1.0):
        after = torch.cat([values[:, 1:], torch.zeros(4, 1)], 1)
        delta = (rewards + gamma * following * after - here * values) * mask
        carry = gamma * lam if carry is None else carry
        powers = torch.tensor([[carry ** (u - t) if u >= t else 0.0 for u in range(6)] for t in range(6)])
        return delta @ powers.T * mask

    right = direct(values * mask)
    delta = direct(values * mask, carry=0.0)
    forward = torch.tensor([[(gamma * lam) ** (t - u) if u <= t else 0.0 for u in range(6)] for t in range(6)])
    compare(answer, right, {
        "the value of a pad counts for nothing: mask the values first.": direct(values),
        "the surprises are added up forwards: an action is judged by what comes after it.": delta @ forward.T * mask,
        "lambda changes nothing: carry A over times gamma times lambda.": direct(values * mask, carry=gamma),
        "gamma is missing where A is carried over: times gamma times lambda.": direct(values * mask, carry=lam),
        "gamma is missing before the next value.": direct(values * mask, gamma=1.0, carry=gamma * lam),
        "the next value V at t + 1 is missing in delta.": direct(values * mask, following=0.0),
        "the baseline V at t is missing in delta.": direct(values * mask, here=0.0),
        "this is delta alone: add what was carried over from the token after.": delta,
        "these are the returns A + V: the advantage is wanted.": right + values * mask,
        "these are rewards to come: subtract what was expected, V.": direct(values * 0),
        "the sign is wrong: better than expected is positive.": -right,
    }, "these are not the advantages: go backwards, and carry what was found over to the token before.")


@exercise(5)
def check_clipped_loss(clipped_loss) -> None:
    mask, clip = masked(5, 8), random.choice([random.uniform(0.08, 0.15), random.uniform(0.25, 0.35)])
    old, gained = -3 * torch.rand(5, 8), 2 * torch.randn(5, 8)
    logp = old + torch.randn(5, 8)
    answer = tensor(call(clipped_loss, logp, old, gained, mask, clip), 5, 8, usual="one loss for each token")
    ratio = torch.exp(logp - old)
    plain, clipped = ratio * gained, ratio.clamp(1 - clip, 1 + clip) * gained
    fixed = ratio.clamp(0.8, 1.2) * gained
    compare(answer, -torch.minimum(plain, clipped) * mask, {
        "a loss is minimised: what had an advantage must lower it, so mind the sign.":
            torch.minimum(plain, clipped) * mask,
        "minimum, not maximum: mistakes are never clipped away.": -torch.maximum(plain, clipped) * mask,
        "the minimum is taken after the minus: that is a maximum.": torch.minimum(-plain, -clipped) * mask,
        "what comes after the end token does not count: multiply by the mask.": -torch.minimum(plain, clipped),
        "nothing is clipped: beyond 1 + clip more of a good thing earns nothing.": -plain * mask,
        "always clipped: the minimum of both keeps the gradient where a mistake is to be undone.": -clipped * mask,
        "clip changes nothing: use the argument.": -torch.minimum(plain, fixed) * mask,
        "a ratio of probabilities is the exponential of a difference of log-probabilities.": -torch.minimum(
            (logp - old) * gained, (logp - old).clamp(1 - clip, 1 + clip) * gained) * mask,
        "that is the quotient of two logarithms: the ratio is the exponential of their difference.": -torch.minimum(
            logp / old * gained, (logp / old).clamp(1 - clip, 1 + clip) * gained) * mask,
        "the ratio is upside down: the new policy over the old.": -torch.minimum(
            gained / ratio, (1 / ratio).clamp(1 - clip, 1 + clip) * gained) * mask,
    }, "this is not the loss: minus the smaller of ratio · A and clipped ratio · A.")


CLIPPING = {
    "ratio 1.5, advantage +1": "it has moved further than clip allows, and towards what was good",
    "ratio 1.5, advantage -1": "a bad token has become more probable, and the minimum takes the unclipped side",
    "ratio 0.5, advantage +1": "a good token has become less probable, and the minimum takes the unclipped side",
    "ratio 0.5, advantage -1": "it has moved further than clip allows, and away from what was bad",
    "ratio 1.1, advantage +1": "clipping begins at 1.2 only"}


@exercise(6)
def check_clipping(guess) -> None:
    right = {}
    for key in CLIPPING:
        ratio, sign = float(key.split()[1][:-1]), float(key.split()[3])
        logp = torch.log(torch.tensor(ratio)).requires_grad_()
        r, a = logp.exp(), sign * random.uniform(0.5, 2.0)
        [slope] = torch.autograd.grad(torch.minimum(r * a, r.clamp(0.8, 1.2) * a), logp)
        right[key] = "moves" if slope.abs() > 0 else "stays"
    prediction(guess, right, CLIPPING)
