// SPDX-License-Identifier: Apache-2.0
//
// The launch measurement: what a guest was started from, as one digest. It is
// the value that the shim recomputes inside the guest, from the same code
// (boot/shim/handover.h). Nothing signs it: a consistency check of the launch,
// not attestation. Links without KVM, so it can be computed offline.
#ifndef CLOISTER_CONFIDENTIAL_MEASUREMENT_H_
#define CLOISTER_CONFIDENTIAL_MEASUREMENT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/boot/shim/handover.h"
#include "cloister/boot/shim/launch.h"

namespace cloister::confidential {

// One launch, measured: the digest, and in hashing order all that went into it.
struct MeasurementReport {
  shim::Digest digest;
  uint32_t format = 0;  // shim::kDigestFormat.
  uint64_t shim_size = 0;
  shim::Digest shim;  // Of the image, its digest slot zeroed.
  // Start state (shim address, entry, RSI, vCPUs, hypercalls, RAM, platform
  // digest) and the ordered pieces with their digests. Its c_bit is not part of
  // the measurement.
  shim::Handover inputs;
};

// Measures what shim::BuildShimLaunch(options) would start with `image` as the
// shim. Errors: those of shim::MakeHandover; InvalidArgument if `image` has no
// digest slot or is larger than shim::kImageMax.
absl::StatusOr<MeasurementReport> Measure(absl::Span<const uint8_t> image,
                                          const shim::LaunchOptions& options);

// As above with this build's own shim: what `run` launches.
absl::StatusOr<MeasurementReport> Measure(const shim::LaunchOptions& options);

// The same for a hand-over that shim::MakeHandover has made: hashes no piece.
MeasurementReport MeasureHandover(const shim::Handover& handover);

}  // namespace cloister::confidential

#endif  // CLOISTER_CONFIDENTIAL_MEASUREMENT_H_
