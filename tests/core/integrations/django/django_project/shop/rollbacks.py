"""Tests of rollbacks, run by `manage.py test shop.rollbacks`: jobs are in the test database."""

from __future__ import annotations

from django.db import transaction
from django.test import TestCase, TransactionTestCase

from firelock.integrations.django import fire
from firelock.testing import Tester
from shop.models import Order
from shop.tasks import send_receipt


class RollbackTests(TransactionTestCase):
    """Models and jobs are committed and rolled back together."""

    def test_a_rollback_takes_the_job_along(self):
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

    def test_no_job_of_another_test_is_left(self):
        assert fire.jobs.counts().enqueued == 0
        send_receipt.enqueue(Order.objects.create(buyer="bob").pk)
        assert fire.jobs.counts().enqueued == 1

    def test_a_server_runs_jobs(self):
        order = Order.objects.create(buyer="bob")

        with fire.server(workers=1):
            assert send_receipt.enqueue(order.pk).result(timeout=60) == "bob"


class OtherRollbackTests(RollbackTests):
    """The same tests, in another process if tests run in parallel."""


class TesterTests(TestCase):
    """A Tester is used as with any other storage."""

    def test_a_tester_has_a_storage_of_its_own(self):
        with Tester(fire) as tester, transaction.atomic():
            send_receipt.enqueue(Order.objects.create(buyer="ann").pk)

            assert tester.drain(raises=True).succeeded == 1

    def test_without_a_tester_jobs_are_of_the_tests_transaction(self):
        Order.objects.create(buyer="ann")
        send_receipt.enqueue(1)

        assert fire.jobs.counts().enqueued == 0  # another connection reads
