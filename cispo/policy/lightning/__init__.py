"""The lightning-attention hybrid of MiniMax-M1: chunked for training, recurrent for decoding."""
