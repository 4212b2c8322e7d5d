"""The live view: what the GPUs, the queues and the streams do now, by the public interface alone.

Decides what of it fits into a terminal. ``snapshot`` makes figures of answers, ``screen`` rows of figures, ``live``
keeps asking and drawing, and gives the terminal back as it was.
"""
