"""Speech from espeak-ng, through ctypes on the library inside the ``espeakng-loader`` wheel."""

import ctypes

import espeakng_loader
import numpy as np

_SYNCHRONOUS = (
    2  # AUDIO_OUTPUT_SYNCHRONOUS of espeak-ng/speak_lib.h: samples go to the callback, espeak_Synth returns after
)
_UTF8 = 1  # espeakCHARS_UTF8
_RATE, _PITCH = 1, 3  # espeakRATE, espeakPITCH
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Espeak:
    """The synthesizer of this process. The library keeps global state: one instance a process, one thread at a time.

    Samples depend a little on what was spoken before (the library's noise generator runs on), so the same calls in the
    same order in a new process give the same samples, a different order does not.

    Attributes: ``sample_rate`` in Hz (22050), ``version`` of the library.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self.sample_rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
        if self.sample_rate <= 0:
            raise OSError("espeak-ng cannot read its voices: install espeakng-loader again")
        self._library.espeak_Info.restype = ctypes.c_char_p
        self.version = self._library.espeak_Info(None).decode()
        self._chunks: list[bytes] = []
        self._callback = _Callback(self._collect)  # kept: the library holds only its address
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples, count: int, _events) -> int:
        if samples and count:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    def say(self, text: str, voice: str, rate: int = 175, pitch: int = 50) -> np.ndarray:
        """Speak ``text`` and return int16 samples [n] at ``sample_rate``.

        ``voice`` is an accent and a variant, as in "en-us+f3"; ``rate`` in words a minute (80 to 450); ``pitch`` from 0
        to 99. Raises ValueError for a voice that the library does not have.
        """
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        self._library.espeak_SetParameter(_RATE, rate, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        self._chunks.clear()
        encoded = text.encode() + b"\0"
        self._library.espeak_Synth(encoded, len(encoded), 0, 1, 0, _UTF8, None, None)
        return np.frombuffer(b"".join(self._chunks), np.int16)
