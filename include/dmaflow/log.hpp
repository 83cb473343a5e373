// What the library has to say beside its results. Silent unless a program sets a hook.
#pragma once

#include <dmaflow/cpp23.hpp>

#include <cstdint>
#include <string_view>

namespace dmaflow {

enum class LogLevel : std::uint8_t { debug, info, warning };

/// Called from whichever thread has something to say; must not call back into dmaflow.
using LogHook = void (*)(LogLevel level, std::string_view message, void* user);

/// Sets the hook for the whole process, or takes it away (nullptr). May be called from any thread; a call in progress
/// in another thread may still reach the old hook.
void set_log_hook(LogHook hook, void* user = nullptr) noexcept;

}  // namespace dmaflow
