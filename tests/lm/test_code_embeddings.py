"""Codes that lie near one another: which they are, what the loss and the first embeddings make of it."""

import pytest
import torch

from vqlm.lm.code_embeddings import NUM_NEIGHBORS, initialize_code_embeddings, similar_codes


def test_similar_codes_by_hand():
    # On a line at 0, 1 and 3: squared distances to the nearest other are 1, 1 and 4, their mean 2, the temperature 1.
    similar = similar_codes(torch.tensor([[0.0], [1.0], [3.0]]))
    assert similar.codes.tolist() == [[0, 1, 2], [1, 0, 2], [2, 1, 0]]
    expected = torch.tensor([[0.0, -1.0, -9.0], [0.0, -1.0, -4.0], [0.0, -4.0, -9.0]]).softmax(-1)
    torch.testing.assert_close(similar.weights, expected)


def test_similar_codes_do_not_depend_on_the_scale():
    codebook = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    small, large = similar_codes(codebook), similar_codes(1000 * codebook)
    assert small.codes.shape == (100, NUM_NEIGHBORS)
    torch.testing.assert_close(small.weights, large.weights, atol=1e-4, rtol=0)


@pytest.mark.parametrize("codebook", [torch.zeros(1, 4), torch.ones(5, 4)])
def test_similar_codes_of_a_codebook_without_distances(codebook):
    weights = similar_codes(codebook).weights
    assert weights.isfinite().all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(len(codebook)))


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_start_near_one_another_where_codes_are(build_tiny, vocabulary, tied):
    model = build_tiny(tie_word_embeddings=tied, hidden_size=64)
    image = slice(vocabulary.image.offset, vocabulary.image.stop)
    matrices = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    before = [matrix.detach().clone() for matrix in matrices]
    codebook = torch.randn(vocabulary.image.size, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    initialize_code_embeddings(model, vocabulary, codebook)
    near = torch.nn.functional.normalize(codebook - codebook.mean(0), dim=-1)
    for matrix, old in zip(matrices, before, strict=True):
        assert torch.equal(matrix[: image.start], old[: image.start])
        rows = torch.nn.functional.normalize(matrix[image].detach(), dim=-1)
        pairs = torch.stack([(rows @ rows.T).flatten(), (near @ near.T).flatten()])
        assert torch.corrcoef(pairs)[0, 1] > 0.8
        assert matrix[image].std().item() == pytest.approx(old[image].std().item(), rel=0.2)
