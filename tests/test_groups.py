"""Categories predicted from the text, and k-means: means by hand, and what the text decides is found."""

import numpy as np
import pytest
from test_learned import TOPICS, TRAIN, pool_of, table_of, topics

from routerlab import Query
from routerlab.routers.features import Tfidf
from routerlab.routers.groups import KMeans, PredictedCategory, group_means
from routerlab.routers.protocol import RouterError


@pytest.fixture(scope="module")
def task():
    queries, quality, usd = topics(600)
    named = [Query.ask(q.text, meta={"subject": q.text.split()[0]}) for q in queries]
    return named, quality, usd


def _fitted(kind, task, category="subject"):
    queries, quality, usd = task
    router = kind(Tfidf(width=32).fit([q.text for q in queries[:TRAIN]]))
    router.category = category
    return router.fit(queries[:TRAIN], table_of(queries, quality, usd))


def test_means_of_groups_by_hand():
    member = np.array([[1, 0], [1, 0], [0.5, 0.5]])
    means = group_means(member, np.array([[1.0, 0.0], [np.nan, 1.0], [0.0, 1.0]]))
    # Model 0: mean 1/2, in the first group 1 of 1.5; model 1: mean 2/3, 1.5 of 2.5. The second group: 0 and 0.5 of 0.5.
    np.testing.assert_allclose(means[0], [(1 + 5 / 2) / 6.5, (1.5 + 10 / 3) / 7.5])
    np.testing.assert_allclose(means[1], [(5 / 2) / 5.5, (0.5 + 10 / 3) / 5.5])


@pytest.mark.parametrize(("kind", "least"), [(PredictedCategory, 0.9), (KMeans, 0.85)])
def test_groups_are_found_in_the_text_alone(task, kind, least):
    queries, quality, _ = task
    router = _fitted(kind, task)
    test = [Query.ask(q.text) for q in queries[TRAIN:]]  # without meta
    chosen = router.route(test, pool_of(router.models)).choice
    assert quality[TRAIN:][np.arange(len(test)), chosen].mean() > least, "the best single model has .65"
    again = _fitted(kind, task)
    np.testing.assert_array_equal(router.predict(test)[0], again.predict(test)[0])


def test_the_probabilities_of_categories_sum_to_one_and_name_the_topic(task):
    router, queries = _fitted(PredictedCategory, task), task[0][TRAIN:]
    p = router.probabilities(router.features.views([q.text for q in queries]))
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    assert (p >= 0).all()
    names = np.array(sorted(TOPICS))
    assert (names[p.argmax(1)] == [q.text.split()[0] for q in queries]).mean() > 0.95


def test_a_table_without_categories_has_none_to_predict(task):
    with pytest.raises(RouterError, match="no column of meta has a category for every training query"):
        _fitted(PredictedCategory, task, category=None)


def test_the_number_of_clusters_has_the_least_error_on_questions_kept_out(task):
    queries, quality, usd = task
    noise = np.random.default_rng(0).permutation(quality)
    kinds = {True: quality, False: noise}
    for real, outcomes in kinds.items():
        router = KMeans(Tfidf(width=32).fit([q.text for q in queries]), ks=(1, 60))
        router.fit(queries, table_of(queries, outcomes, usd))
        assert router.values["k"] == (60 if real else 1)
