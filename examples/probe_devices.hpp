// The devices of this machine that handle frames: memory, cameras, displays, GPUs. Each has its formats or the reason
// why it cannot be used.
#pragma once

#include <dmaflow/error.hpp>

#include <nlohmann/json.hpp>

#include <string>
#include <vector>

class Progress;

using Json = nlohmann::ordered_json;

/// The nodes in a directory whose names are @p prefix and a number, sorted by number: "/dev/video0", ...
std::vector<std::string> nodes(const std::string& directory, const std::string& prefix);

/// {"message": ..., "operation": ..., "code": "EACCES"}.
Json as_json(const dmaflow::Error& error);

/// One entry for each kind: "heaps", "udmabuf", "cameras", "video_outputs", "cards", "gbm", "vulkan" (README.md has the
/// keys). A device that cannot be opened has an "error". Changes nothing. Incomplete if @p progress was asked to stop.
Json look_at_devices(Progress& progress);
