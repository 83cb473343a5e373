// Messages of the library in addition to its results. Silent unless a program sets a hook.
#pragma once

#include <dmaflow/cpp23.hpp>

#include <cstdint>
#include <string_view>

namespace dmaflow {

enum class LogLevel : std::uint8_t { debug, info, warning };

/// Called from the thread that has a message; must not call back into dmaflow.
using LogHook = void (*)(LogLevel level, std::string_view message, void* user);

/// Sets the hook for the whole process, or removes it (nullptr). May be called from any thread; a call in progress in
/// another thread may still reach the old hook.
void set_log_hook(LogHook hook, void* user = nullptr) noexcept;

}  // namespace dmaflow
