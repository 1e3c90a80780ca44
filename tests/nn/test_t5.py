import torch

from semid.nn.t5 import Attention, Decoder, Encoder, RelativeBias, hide, relative_bucket

SHAPE = {"width": 16, "heads": 2, "head_width": 8, "hidden": (32,), "dropout": 0.0}


def test_near_distances_have_their_own_bucket_and_far_ones_share():
    distance = torch.tensor([-1000, -128, -127, -8, -7, -1, 0, 1, 7, 8, 127, 128, 1000])
    two_sided = relative_bucket(distance, bidirectional=True)
    assert two_sided.tolist() == [15, 15, 15, 8, 7, 1, 0, 17, 23, 24, 31, 31, 31]
    one_sided = relative_bucket(distance, bidirectional=False)
    assert one_sided.tolist() == [31, 31, 31, 8, 7, 1, 0, 0, 0, 0, 0, 0, 0]


def test_bias_of_the_last_queries_is_the_end_of_the_whole_bias():
    bias = RelativeBias(heads=3, width=16, bidirectional=False)
    assert torch.equal(bias(2, 5), bias(5, 5)[:, 3:])


def test_attention_equals_a_loop_over_heads():
    torch.manual_seed(0)
    attention = Attention(width=6, heads=2, head_width=4, dropout=0.0)
    x, memory, bias = torch.randn(3, 2, 6), torch.randn(3, 5, 6), torch.randn(3, 2, 2, 5)
    got = attention(x, attention.remember(memory), bias)
    keys, values = attention.key_value.weight.view(2, 2, 4, 6)
    mixed = []
    for head, query in enumerate(attention.query.weight.view(2, 4, 6)):
        scores = (x @ query.T) @ (memory @ keys[head].T).transpose(1, 2) + bias[:, head]
        mixed.append(scores.softmax(-1) @ (memory @ values[head].T))
    torch.testing.assert_close(got, torch.cat(mixed, -1) @ attention.out.weight.T)


def test_hidden_tokens_change_nothing():
    torch.manual_seed(0)
    encoder = Encoder(2, **SHAPE)
    x = torch.randn(1, 7, 16)
    visible = (torch.arange(7) < 4).expand(1, 1, 1, 7)
    torch.testing.assert_close(encoder(x, visible)[:, :4], encoder(x[:, :4], visible[..., :4]))


def test_a_row_that_sees_nothing_stays_finite():
    out = Encoder(1, **SHAPE)(torch.randn(1, 3, 16), torch.zeros(1, 1, 1, 3, dtype=torch.bool))
    assert out.isfinite().all()


def test_decoding_token_by_token_equals_one_pass():
    torch.manual_seed(0)
    decoder = Decoder(2, **SHAPE)
    x, hidden = torch.randn(4, 5, 16), hide(torch.ones(2, 1, 1, 6, dtype=torch.bool))
    memory = decoder.remember(torch.randn(2, 6, 16))
    whole = decoder(x, memory, hidden)
    past, steps = (torch.empty(0, 2, 4, 2, 8),) * 2, []
    for position in range(5):
        state, past = decoder.extend(x[:, position], memory, hidden, past)
        steps.append(state)
    torch.testing.assert_close(torch.stack(steps, 1), whole, rtol=1e-5, atol=1e-5)


def test_dropout_acts_while_training_only():
    encoder = Encoder(1, **{**SHAPE, "dropout": 0.5})
    x, visible = torch.randn(1, 3, 16), torch.ones(1, 1, 1, 3, dtype=torch.bool)
    assert not torch.equal(encoder(x, visible), encoder(x, visible))
    encoder.eval()
    assert torch.equal(encoder(x, visible), encoder(x, visible))
