// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/fake_backend.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace cloister::memory {

void StepLog::Add(std::string step) {
  base::MutexLock lock(&mutex_);
  steps_.push_back(std::move(step));
}

std::vector<std::string> StepLog::Take() {
  base::MutexLock lock(&mutex_);
  return std::exchange(steps_, {});
}

template <typename Visit>
void FakeBackend::ForPages(const GuestRange& range, Visit visit) {
  for (uint64_t offset = 0; offset < range.size(); offset += kPageSize) {
    visit(range.start().value() + offset);
  }
}

absl::Status FakeBackend::Begin(Method method, const GuestRange& range,
                                const std::string& step) {
  if (log_ != nullptr) log_->Add(step);
  base::MutexLock lock(&mutex_);
  if (!range.IsPageAligned()) {
    violations_.push_back(absl::StrCat("misaligned ", range.ToString()));
  }
  for (const GuestRange& other : busy_) {
    if (!other.Overlaps(range)) continue;
    violations_.push_back(absl::StrCat("overlapping calls: ", other.ToString(),
                                       " and ", range.ToString()));
  }
  busy_.push_back(range);
  ++calls_[static_cast<size_t>(method)];
  if (fail_count_ == 0 || (fail_method_.has_value() && fail_method_ != method))
    return absl::OkStatus();
  if (fail_in_ > 0) {
    --fail_in_;
    return absl::OkStatus();
  }
  --fail_count_;
  failed_ = true;
  // A copy of the caller's own: threads must not share abseil's reference
  // count, which ThreadSanitizer does not see.
  return absl::Status(fail_status_.code(), fail_status_.message());
}

void FakeBackend::End(const GuestRange& range) {
  base::MutexLock lock(&mutex_);
  busy_.erase(std::find(busy_.begin(), busy_.end(), range));
}

PageProgress FakeBackend::SetAttributes(const GuestRange& range, PageState to) {
  absl::Status status =
      Begin(Method::kSet, range, absl::StrCat("attribute ", PageStateName(to)));
  if (during_set != nullptr) during_set(range, to);
  const uint64_t pages = range.size() / kPageSize;
  const uint64_t done = (status.ok() ? pages : pages / 2) * kPageSize;
  {
    base::MutexLock lock(&mutex_);
    if (to != PageState::kPrivate && to != PageState::kShared) {
      violations_.push_back(absl::StrCat("attribute ", PageStateName(to)));
    }
    for (uint64_t offset = 0; offset < done; offset += kPageSize) {
      pages_[range.start().value() + offset].attribute = to;
    }
  }
  End(range);
  return {std::move(status), done};
}

absl::Status FakeBackend::ReserveShared(const GuestRange& range) {
  absl::Status status = Begin(Method::kReserve, range, "reserve");
  {
    base::MutexLock lock(&mutex_);
    // Half of it is reserved even on failure.
    const uint64_t bytes = status.ok() ? range.size() : range.size() / 2;
    for (uint64_t offset = 0; offset < bytes; offset += kPageSize) {
      Page& page = pages_[range.start().value() + offset];
      page.shared = page.shared.value_or(0);
    }
  }
  End(range);
  return status;
}

absl::Status FakeBackend::FreeShared(const GuestRange& range) {
  absl::Status status = Begin(Method::kFreeShared, range, "free shared");
  if (status.ok()) status = Free(BackingSide::kShared, range);
  End(range);
  return status;
}

absl::Status FakeBackend::FreePrivate(const GuestRange& range) {
  absl::Status status = Begin(Method::kFreePrivate, range, "free private");
  if (status.ok()) status = Free(BackingSide::kPrivate, range);
  End(range);
  return status;
}

absl::Status FakeBackend::Free(BackingSide side, const GuestRange& range) {
  base::MutexLock lock(&mutex_);
  ForPages(range, [&](uint64_t address) {
    mutex_.AssertHeld();
    Side(pages_[address], side).reset();
  });
  return absl::OkStatus();
}

absl::Status FakeBackend::ForEachBacked(
    BackingSide side, const GuestRange& range,
    absl::FunctionRef<void(const GuestRange&)> visit) {
  absl::Status status = Begin(Method::kFind, range, "find");
  std::vector<GuestRange> found;
  if (status.ok()) {
    base::MutexLock lock(&mutex_);
    ForPages(range, [&](uint64_t address) {
      mutex_.AssertHeld();
      if (!Side(pages_[address], side).has_value()) return;
      if (!found.empty() && found.back().last().value() + 1 == address) {
        found.back() = *GuestRange::Create(found.back().start(),
                                           found.back().size() + kPageSize);
      } else {
        found.push_back(*GuestRange::Create(GuestAddress(address), kPageSize));
      }
    });
  }
  for (const GuestRange& part : found) visit(part);
  End(range);
  return status;
}

void FakeBackend::FailCalls(std::optional<Method> method, uint64_t first,
                            uint64_t count, absl::Status status) {
  base::MutexLock lock(&mutex_);
  fail_method_ = method;
  fail_in_ = first;
  fail_count_ = count;
  fail_status_ = std::move(status);
  failed_ = false;
}

bool FakeBackend::failed() {
  base::MutexLock lock(&mutex_);
  return failed_;
}

void FakeBackend::GuestWrite(GuestAddress page, uint64_t value) {
  base::MutexLock lock(&mutex_);
  Page& cell = pages_[page.value()];
  Side(cell, SideOf(cell.attribute)) = value;
}

uint64_t FakeBackend::GuestRead(GuestAddress page) {
  base::MutexLock lock(&mutex_);
  Page& cell = pages_[page.value()];
  return Side(cell, SideOf(cell.attribute)).value_or(0);
}

void FakeBackend::Back(BackingSide side, GuestAddress page, uint64_t value) {
  base::MutexLock lock(&mutex_);
  Side(pages_[page.value()], side) = value;
}

FakeBackend::Page FakeBackend::Get(GuestAddress page) {
  base::MutexLock lock(&mutex_);
  return pages_[page.value()];
}

uint64_t FakeBackend::calls(Method method) {
  base::MutexLock lock(&mutex_);
  return calls_[static_cast<size_t>(method)];
}

std::vector<std::string> FakeBackend::violations() {
  base::MutexLock lock(&mutex_);
  return violations_;
}

}  // namespace cloister::memory
