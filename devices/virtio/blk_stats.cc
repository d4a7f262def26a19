// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/blk_stats.h"

namespace cloister::devices::virtio {

void BlkStats::Done(const BlkRequest& request, bool bounced) {
  requests_[static_cast<size_t>(request.type)].Add();
  if (request.type == BlkType::kRead) read_bytes_.Add(request.length);
  if (request.type == BlkType::kWrite) written_bytes_.Add(request.length);
  if (bounced) bounced_.Add();
}

bool BlkStats::Failed(int error) {
  base::MutexLock lock(&mutex_);
  return ++errors_[error] == 1;
}

BlkCounters BlkStats::Snapshot() const {
  auto of = [this](BlkType type) {
    return requests_[static_cast<size_t>(type)].value();
  };
  BlkCounters counters;
  counters.reads = of(BlkType::kRead);
  counters.writes = of(BlkType::kWrite);
  counters.flushes = of(BlkType::kFlush);
  counters.ids = of(BlkType::kGetId);
  counters.discards = of(BlkType::kDiscard);
  counters.write_zeroes = of(BlkType::kWriteZeroes);
  counters.read_bytes = read_bytes_.value();
  counters.written_bytes = written_bytes_.value();
  for (size_t why = 0; why < kBlkRefusals; ++why) {
    counters.refusals[why] = refusals_[why].value();
    counters.refused += counters.refusals[why];
  }
  counters.bounced = bounced_.value();
  base::MutexLock lock(&mutex_);
  counters.errors = errors_;
  return counters;
}

}  // namespace cloister::devices::virtio
