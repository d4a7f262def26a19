// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/pending_private.h"

#include <chrono>
#include <utility>

#include "cloister/base/blocked_signals.h"

namespace cloister::memory {
PendingPrivate::PendingPrivate(SharedView* view, FreeIdle free_idle,
                               std::function<void()> on_start)
    : view_(view), free_idle_(std::move(free_idle)) {
  const base::BlockedSignals blocked;
  thread_ = std::thread([this, on_start = std::move(on_start)] {
    if (on_start) on_start();
    Run();
  });
}

PendingPrivate::~PendingPrivate() {
  {
    base::MutexLock lock(&mutex_);
    stop_ = true;
    changed_.SignalAll();
  }
  view_->leases().notifier().Notify();
  thread_.join();
}

void PendingPrivate::Add(const GuestRange& range) {
  base::MutexLock lock(&mutex_);
  pending_.Add(range);
  changed_.SignalAll();
  // The thread may be waiting for the end of other leases, having looked at
  // these pages' counters never.
  view_->leases().notifier().Notify();
}

void PendingPrivate::Remove(const GuestRange& range) {
  base::MutexLock lock(&mutex_);
  pending_.Remove(range);
}

std::vector<GuestRange> PendingPrivate::Inside(const GuestRange& range) {
  base::MutexLock lock(&mutex_);
  return pending_.Inside(range);
}

std::vector<GuestRange> PendingPrivate::Outside(const GuestRange& range) {
  base::MutexLock lock(&mutex_);
  return pending_.Outside(range);
}

uint64_t PendingPrivate::bytes() {
  base::MutexLock lock(&mutex_);
  return pending_.bytes();
}

bool PendingPrivate::WaitForWork() {
  base::MutexLock lock(&mutex_);
  while (!stop_ && pending_.empty()) changed_.Wait(&mutex_);
  return !stop_;
}

bool PendingPrivate::Stopping() {
  base::MutexLock lock(&mutex_);
  return stop_;
}

void PendingPrivate::FreeIdleParts() {
  std::vector<GuestRange> pending;
  {
    base::MutexLock lock(&mutex_);
    pending = pending_.All();
  }
  std::vector<GuestRange> idle;
  for (const GuestRange& range : pending) {
    view_->leases().ForEachRun(range, [&](const GuestRange& run, bool leased) {
      if (!leased) idle.push_back(run);
    });
  }
  for (const GuestRange& range : idle) free_idle_(range);
}

void PendingPrivate::Run() {
  LeaseNotifier& notifier = view_->leases().notifier();
  while (WaitForWork()) {
    // Registered before it looks, so that no lease ends unnoticed.
    notifier.AddWaiter();
    const uint64_t epoch = notifier.Epoch();
    FreeIdleParts();
    if (!Stopping()) {
      notifier.WaitPast(
          epoch, std::chrono::steady_clock::now() + std::chrono::hours(1));
    }
    notifier.RemoveWaiter();
  }
}

}  // namespace cloister::memory
