// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_CONFIG_STORE_H_
#define CLOISTER_API_CONFIG_STORE_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "cloister/api/json.h"
#include "cloister/api/schema.h"

namespace cloister::api {

// The configuration of a VM as clients put it together: one JSON object with a
// member per path ("machine-config", "drives", ...), which is what GET
// /vm/config answers and --config-file takes. Holds only what the schema and
// the rules between fields allow. Not thread-safe.
class ConfigStore {
 public:
  ConfigStore();

  // Takes the body of a PUT or PATCH before the start, checked against the
  // schema already; `id` is the one in the path. InvalidArgument, changing
  // nothing, with one line that names the field.
  absl::Status Apply(const Endpoint& endpoint, absl::string_view id,
                     Json value);

  // Notes what a PATCH has changed of a device of a VM that runs: `change` is
  // the body, checked by the schema and by the device. A limit that it does not
  // name stays.
  void NoteChange(const Endpoint& endpoint, absl::string_view id,
                  const Json& change);

  // The three are for clients: with addresses and sizes as "0x...". As GET
  // /vm/config answers.
  Json Shown() const;
  // As GET /memory/policy answers: the policy, with the exchange windows.
  Json Policy() const;
  // As GET /confidential answers before the start: with the policy.
  Json Confidential() const;
  // The policy as `change`, the body of a PATCH, makes it of a VM that runs.
  // Changes nothing: NotePolicy does, once it is in effect.
  absl::StatusOr<Json> ChangedPolicy(const Json& change) const;
  void NotePolicy(Json policy);

  // Reads a whole configuration: the text of a --config-file. An error names
  // the section, and leaves the store half filled.
  absl::Status Load(absl::string_view text);

  const Json& json() const { return *json_; }

  // What only shows once everything is known: InvalidArgument or
  // FailedPrecondition naming what the VM cannot start with.
  absl::Status CheckStart() const;

 private:
  absl::Status TakeWindows(Json* policy);
  static absl::Status TakePolicy(Json* confidential, Json* policy);
  absl::Status LoadSection(absl::string_view section, Json value);

  std::shared_ptr<Json> json_;
};

}  // namespace cloister::api

#endif  // CLOISTER_API_CONFIG_STORE_H_
