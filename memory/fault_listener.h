// SPDX-License-Identifier: Apache-2.0
//
// A ConversionListener that refuses when told to, and notices when the
// contract is broken (test only).
#ifndef CLOISTER_MEMORY_FAULT_LISTENER_H_
#define CLOISTER_MEMORY_FAULT_LISTENER_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/mutex.h"
#include "cloister/memory/conversion_listener.h"
#include "cloister/memory/fake_backend.h"
#include "cloister/memory/range_set.h"

namespace cloister::memory {

class FaultListener : public ConversionListener {
 public:
  FaultListener(std::string name, StepLog* log)
      : name_(std::move(name)), log_(log) {}

  absl::string_view name() const override { return name_; }

  absl::Status Prepare(const ConversionSet& set) override {
    Log("prepare");
    base::MutexLock lock(&mutex_);
    if (refuse_in_ == 0) {
      --refuse_in_;
      refused_ = true;
      return absl::ResourceExhaustedError("told to refuse");
    }
    if (refuse_in_ > 0) --refuse_in_;
    Open open;
    for (const GuestRange& range : set.ranges) {
      if (open.rest.Overlaps(range)) Wrong("ranges overlap", range);
      open.rest.Add(range);
    }
    if (set.ranges.empty() || set.ranges.size() > ConversionSet::kMaxRanges ||
        !open_.emplace(set.id, std::move(open)).second) {
      violations_.push_back("bad set, or prepared twice");
    }
    return absl::OkStatus();
  }

  void Rollback(const ConversionSet& part) noexcept override {
    Log("rollback");
    Settle(part, /*commit=*/false);
  }
  void Commit(const ConversionSet& part) noexcept override {
    Log("commit");
    Settle(part, /*commit=*/true);
  }
  void UnmapShared(const GuestRange& chunk) noexcept override {
    Log("unmap");
    base::MutexLock lock(&mutex_);
    mapped_.Remove(chunk);
  }
  void MapShared(const GuestRange& chunk) noexcept override {
    Log("map");
    base::MutexLock lock(&mutex_);
    if (mapped_.Overlaps(chunk)) Wrong("mapped twice", chunk);
    mapped_.Add(chunk);
  }

  // Refuses the `n`-th Prepare from now on, from 0; once.
  void RefusePrepare(int64_t n) {
    base::MutexLock lock(&mutex_);
    refuse_in_ = n;
    refused_ = false;
  }
  bool refused() {
    base::MutexLock lock(&mutex_);
    return refused_;
  }
  // Prepared sets that are neither committed nor rolled back.
  size_t half_prepared() {
    base::MutexLock lock(&mutex_);
    return open_.size();
  }
  std::vector<GuestRange> mapped() {
    base::MutexLock lock(&mutex_);
    return mapped_.All();
  }
  std::vector<std::string> violations() {
    base::MutexLock lock(&mutex_);
    return violations_;
  }

 private:
  struct Open {
    RangeSet rest;
    bool committed = false;
    bool rolled_back = false;
  };

  void Log(absl::string_view step) {
    if (log_ != nullptr) log_->Add(absl::StrCat(name_, " ", step));
  }
  void Wrong(absl::string_view what, const GuestRange& range)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    violations_.push_back(absl::StrCat(what, ": ", range.ToString()));
  }
  void Settle(const ConversionSet& part, bool commit) {
    base::MutexLock lock(&mutex_);
    auto it = open_.find(part.id);
    if (it == open_.end() || part.ranges.empty()) {
      violations_.push_back("settled what was not prepared");
      return;
    }
    Open& open = it->second;
    if (open.rolled_back || (commit && open.committed)) {
      violations_.push_back("settled twice, or out of order");
    }
    (commit ? open.committed : open.rolled_back) = true;
    for (const GuestRange& range : part.ranges) {
      if (!open.rest.Outside(range).empty()) Wrong("not prepared", range);
      open.rest.Remove(range);
    }
    if (open.rest.empty()) open_.erase(it);
  }

  const std::string name_;
  StepLog* const log_;  // may be null
  base::Mutex mutex_;
  std::map<uint64_t, Open> open_ ABSL_GUARDED_BY(mutex_);
  RangeSet mapped_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> violations_ ABSL_GUARDED_BY(mutex_);
  int64_t refuse_in_ ABSL_GUARDED_BY(mutex_) = -1;
  bool refused_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace cloister::memory

#endif  // CLOISTER_MEMORY_FAULT_LISTENER_H_
