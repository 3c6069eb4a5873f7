"""Fills a quickstart's database, whose tables are there, with workspaces as an operator has them.

Rows are written around the layer, as those of a product that had no limits yet; history and deliveries as the engine
keeps them. `python3 seed.py FILE`.
"""

import json
import math
import random
import sqlite3
import sys
import time
import uuid

DAY = 86_400_000
NOW = int(time.time() * 1000)
TODAY = NOW // DAY * DAY
random.seed(20)

TABLES = {
    "users": ("User", 1000),
    "segments": ("Segment", 50),
    "journeys": ("Journey", 20),
    "broadcasts": ("Broadcast", 100),
    "computedProperties": ("ComputedProperty", 100),
    "audiences": ("Audience", 50),
    "emailTemplates": ("EmailTemplate", 100),
    "subscriptionGroups": ("SubscriptionGroup", 10),
    "customMetrics": ("CustomMetric", 50),
    "webhooks": ("Webhook", 20),
}

# Who has how much of which type, in percent of the limit; the rest is somewhere below two thirds.
WORKSPACES = {
    "acme": {"segments": 96, "users": 91, "journeys": 75},
    "globex": {"users": 93, "audiences": 90},
    "initech-production": {"segments": 108, "broadcasts": 100, "journeys": 95, "users": 92, "webhooks": 90},
    "umbrella-eu-west": {"webhooks": 100, "segments": 72},
    "hooli": {"emailTemplates": 97},
    "0190163d-8694-739b-aea5-966c26f8ad91": {"users": 90},
    "stark-industries-staging-environment-for-the-migration-team": {"customMetrics": 88},
    "massive-dynamic": {"computedProperties": 81},
    "wonka": {},
    "wayne-enterprises": {"journeys": 85},
    "cyberdyne": {},
    "soylent": {},
    "tyrell": {"subscriptionGroups": 70},
    "vandelay": {},
    "pied-piper": {"segments": 62},
    "dunder-mifflin": {},
}


def rows(database, workspace, table, number):
    values = [(str(uuid.uuid4()), workspace, f"{table} {place}") for place in range(number)]
    database.executemany(f'INSERT INTO "{table}" ("id", "workspaceId", "name") VALUES (?, ?, ?)', values)


def history(database, workspace, resource, now, limit):
    """Ninety days that lead up to `now`, with weekends, and refusals where it was full."""
    begin = now * random.uniform(0.35, 0.75)
    for age in range(90, 0, -1):
        share = (90 - age) / 90
        week = math.sin((age % 7) / 7 * 2 * math.pi) * now * 0.012
        last = max(0, round(begin + (now - begin) * share + week + random.gauss(0, now * 0.02)))
        last = min(last, max(now, limit))
        at = TODAY - age * DAY + DAY - 1000
        refused = random.randint(1, 9) if last >= limit and age < 25 else 0
        database.execute(
            'INSERT INTO "QuotaSnapshot" VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)',
            (workspace, resource, TODAY - age * DAY, "day", at, last, max(0, last - 2), last + 1, limit, refused),
        )


def ordered(at):
    """An id that sorts by its time in seconds, as the engine's do: a UUID of version 7."""
    at = int(at * 1000).to_bytes(6, "big")
    return str(uuid.UUID(bytes=at + bytes([0x70, 0, 0x80]) + random.randbytes(7)))


def deliveries(database):
    ages = iter((40, 31, 12))

    def endpoint(url, description, failures, workspace=None, status="active"):
        at = time.time() - next(ages) * 86_400
        key, made = ordered(at), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
        document = {
            "id": key, "workspaceId": workspace, "url": url, "events": ["quota.warning", "quota.exceeded"],
            "description": description, "status": status, "failures": failures, "pausedUntil": None,
            "createdAt": made, "updatedAt": made,
            "secrets": [{"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "until": None}],
        }
        database.execute(
            'INSERT INTO "QuotaEndpoint" VALUES (?, ?, ?, ?, ?)',
            (key, workspace, int(status == "active"), 0, json.dumps(document)),
        )
        return key

    alerts = endpoint("https://alerts.example.com/hooks/quota", "On-call channel of the platform team", 0)
    endpoint("https://crm.example.net/api/v2/events?source=quota", "Tells customer success who may need more", 2)
    endpoint("https://old.example.org/quota", "", 0, "globex", "disabled")
    told = [
        ("initech-production", "segments", "quota.exceeded", 50, 50, 100, "exceeded", "delivered", ["HTTP 200"]),
        ("acme", "segments", "quota.warning", 48, 50, 96, "critical", "delivered", ["HTTP 503", "HTTP 200"]),
        ("globex", "users", "quota.warning", 930, 1000, 93, "warning", "delivered", ["HTTP 204"]),
        ("hooli", "emailTemplates", "quota.warning", 97, 100, 97, "critical", "dead", ["connection refused"] * 5),
    ]
    for age, (workspace, resource, event, usage, limit, percent, threshold, status, tries) in enumerate(told, 1):
        at = time.time() - age * 5000
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
        body = {
            "event": event, "workspace_id": workspace, "timestamp": stamp,
            "data": {"resource_type": resource, "current_usage": usage, "limit": limit, "percent_used": percent,
                     "threshold": threshold},
        }
        notice, delivery = ordered(at), ordered(at)
        database.execute('INSERT INTO "QuotaNotice" VALUES (?, ?, ?, ?, ?, ?)',
                         (notice, workspace, resource, event, json.dumps(body), int(at * 1000)))
        log = [
            {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at + place * 60)), "tookMs": 84 + 13 * place,
             "ok": result.startswith("HTTP 20"), "result": result}
            for place, result in enumerate(tries)
        ]
        database.execute(
            'INSERT INTO "QuotaDelivery" ("id", "noticeId", "channel", "target", "status", "attempts", "nextAt", "log") '
            "VALUES (?, ?, 'webhook', ?, ?, ?, ?, ?)",
            (delivery, notice, alerts, status, len(tries), int(at * 1000), json.dumps(log)),
        )


def main():
    database = sqlite3.connect(sys.argv[1], timeout=30)
    for workspace, full in WORKSPACES.items():
        for resource, (table, limit) in TABLES.items():
            percent = full.get(resource) or random.choice([4, 12, 22, 31, 40, 47, 55, 63])
            number = limit * percent // 100
            rows(database, workspace, table, number)
            history(database, workspace, resource, number, limit)
    deliveries(database)
    database.commit()


if __name__ == "__main__":
    main()
