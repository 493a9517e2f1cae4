"""Tests of rollbacks with jobs in the test database, run by `manage.py test shop.rollbacks`."""

from __future__ import annotations

from django.db import transaction
from django.test import TestCase, TransactionTestCase

from firelock.integrations.django import fire
from firelock.testing import Tester
from shop.models import Order
from shop.tasks import send_receipt


class RollbackTests(TransactionTestCase):
    """Models and jobs are committed and rolled back together."""

    def test_rollback_removes_the_job(self):
        assert fire.jobs.counts().enqueued == 0
        try:
            with transaction.atomic():
                send_receipt.enqueue(Order.objects.create(buyer="ann").pk)
                raise LookupError
        except LookupError:
            pass

        assert fire.jobs.counts().enqueued == 0
        with transaction.atomic():
            send_receipt.enqueue(Order.objects.create(buyer="bob").pk)
        assert fire.jobs.counts().enqueued == 1

    def test_jobs_of_other_tests_are_removed(self):
        assert fire.jobs.counts().enqueued == 0
        send_receipt.enqueue(Order.objects.create(buyer="bob").pk)
        assert fire.jobs.counts().enqueued == 1

    def test_server_runs_jobs(self):
        order = Order.objects.create(buyer="bob")

        with fire.server(workers=1):
            assert send_receipt.enqueue(order.pk).result(timeout=60) == "bob"


class OtherRollbackTests(RollbackTests):
    """The same tests again, which run in another process if tests run in parallel."""


class TesterTests(TestCase):
    """A Tester works as with any other storage."""

    def test_tester_has_a_separate_storage(self):
        with Tester(fire) as tester, transaction.atomic():
            send_receipt.enqueue(Order.objects.create(buyer="ann").pk)

            assert tester.drain(raises=True).succeeded == 1

    def test_jobs_without_a_tester_join_the_transaction_of_the_test(self):
        Order.objects.create(buyer="ann")
        send_receipt.enqueue(1)

        assert fire.jobs.counts().enqueued == 0  # another connection reads
