// SPDX-License-Identifier: Apache-2.0
//
// The control API as data: every endpoint, body and field with its limits and
// its words. The server checks requests against it, GET /openapi.json and
// docs/api_reference.md are printed from it, and so are the client's commands.
#ifndef CLOISTER_API_SCHEMA_H_
#define CLOISTER_API_SCHEMA_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace cloister::api {

enum class Method { kGet, kPut, kPatch, kPost };
absl::string_view MethodName(Method method);  // "GET"

// When a request is allowed. A VM counts as started from InstanceStart on.
enum class When { kAny, kBeforeStart, kAfterStart };

enum class Type {
  kText,     // minimum and maximum bound its length in bytes
  kInteger,  // an integer from minimum to maximum
  kBoolean,
  kObject,   // as `object`
  kObjects,  // a list of `object`; minimum and maximum bound its length
  kTexts,    // a list of texts
  kTextMap,  // an object whose values are texts
  kAddress,  // an integer, or text in hexadecimal ("0x1000")
  kSize,     // as kAddress, or text with a unit ("64MiB")
  kHex,      // text in hexadecimal; of answers only
};

inline constexpr uint64_t kMaxPathLength = 4095;  // PATH_MAX with its NUL
inline constexpr uint64_t kMaxInteger = INT64_MAX;

struct Object;

struct Field {
  absl::string_view name;
  Type type = Type::kText;
  absl::string_view doc;
  bool required = false;
  uint64_t minimum = 0;
  uint64_t maximum = kMaxInteger;
  // The texts that are allowed, separated by "|"; empty: any.
  absl::string_view choices = "";
  // Texts of `choices` match in any case.
  bool any_case = false;
  const Object* object = nullptr;
  // Known to Firecracker's clients and absent here: only its neutral values
  // (null, false, an empty list, the first of `choices`) are allowed.
  bool absent = false;
  // The default, as JSON; empty: none.
  absl::string_view fallback = "";
};

struct Object {
  absl::string_view name;  // of the schema: "MachineConfiguration"
  absl::string_view doc;
  absl::Span<const Field> fields;
};

// One per endpoint: what the server dispatches on.
enum class Operation {
  kGetInstance,
  kGetVersion,
  kGetVmConfig,
  kGetMachineConfig,
  kPutMachineConfig,
  kPatchMachineConfig,
  kPutBootSource,
  kPutCpuConfig,
  kPutDrive,
  kPatchDrive,
  kPutNetwork,
  kPatchNetwork,
  kPutVsock,
  kPutEntropy,
  kPutSerial,
  kGetBalloon,
  kPutBalloon,
  kPatchBalloon,
  kGetBalloonStatistics,
  kPatchBalloonStatistics,
  kPutLogger,
  kPutMetrics,
  kPutAction,
  kPatchVm,
  kGetConfidential,
  kPutConfidential,
  kGetMeasurement,
  kGetAttributes,
  kPostConvert,
  kGetConversions,
  kGetPolicy,
  kPatchPolicy,
  kGetMap,
  kGetMapSvg,
  kGetEvents,
  kGetCapabilities,
  kGetMetrics,
  kGetPrometheus,
  kGetOpenApi,
  kNotSupported,
};

// Which table of the documentation an endpoint stands in.
enum class Group { kFirecracker, kCloister, kAbsent };

struct Endpoint {
  Operation operation;
  Method method;
  // Segments in braces match any name: "/drives/{drive_id}".
  absl::string_view path;
  absl::string_view id;  // unique: the operationId
  Group group;
  When when;
  absl::string_view doc;
  const Object* body = nullptr;        // null: no body allowed
  absl::Span<const Field> query = {};  // of GET
  const Object* response = nullptr;    // with 200; null: 204 without a body
  absl::string_view content = "application/json";  // of the response
  // How it compares with Firecracker's endpoint of that path.
  absl::string_view difference = "";
};

// Every endpoint, those that answer "not supported" included.
absl::Span<const Endpoint> Endpoints();

// What a request may be answered instead, whatever its endpoint.
struct FaultStatus {
  int status;
  absl::string_view name;  // of the response: "BodyTooLarge"
  absl::string_view doc;
};
absl::Span<const FaultStatus> FaultStatuses();

}  // namespace cloister::api

#endif  // CLOISTER_API_SCHEMA_H_
