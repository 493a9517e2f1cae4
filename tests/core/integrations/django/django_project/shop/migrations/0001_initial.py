"""The table of orders."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    """The migration as `makemigrations` writes it."""

    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            name="Order",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False)),
                ("buyer", models.CharField(max_length=100)),
                ("receipts", models.IntegerField(default=0)),
            ],
        ),
    )
